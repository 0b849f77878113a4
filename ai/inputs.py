"""``[[inputs]]`` of ``model.toml``: the images a model wants and what is done to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ai.content.expected import Content
from ai.tables import Number, Positive, Table, TensorName, UnitCode

Fact = Literal["value_range", "lowest_is_white", "present"]
Interpolation = Literal["nearest", "linear", "bspline"]
Count = Annotated[int, Field(ge=1, le=1 << 16)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Window(Table):
    """Values are limited to ``center ± width / 2``, in the input's units."""

    center: Number
    width: Positive

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return self.center - self.width / 2.0, self.center + self.width / 2.0


class Normalisation(Table):
    """How values are scaled after the window.

    Attributes:
        kind: ``none``; ``window`` maps the window onto `to`, each of several into a channel of its
            own; ``value_range`` maps the range of the stored bits onto `to`; ``minmax`` maps the
            lowest and highest value of the whole input onto `to`; ``percentiles`` maps two
            percentiles onto `to`, and what lies beyond them onto its ends; ``zscore`` subtracts the
            mean of the whole input and divides by its standard deviation.
        to: Lowest and highest value of the result.
        percentiles: The two of ``percentiles``.
        over: Which voxels ``minmax``, ``percentiles`` and ``zscore`` look at: ``all``, those that
            are not 0, those of the body, or those that the crop keeps.
        outside: What the other voxels become after all steps; left as they come unless given.
        mean: Subtracted after that, one number a channel.
        sd: Divided by after that, one number a channel.
    """

    kind: Literal["none", "window", "value_range", "minmax", "percentiles", "zscore"] = "none"
    to: tuple[Number, Number] = (0.0, 1.0)
    percentiles: tuple[Percent, Percent] = (0.5, 99.5)
    over: Literal["all", "nonzero", "body", "crop"] = "all"
    outside: Number | None = None
    mean: tuple[Number, ...] | None = None
    sd: tuple[Positive, ...] | None = None


class Crop(Table):
    """What of the image the model is given; the rest holds no label.

    Attributes:
        to: ``nonzero``, the box around what is not 0; ``body``, the box around the body;
            ``square``, the middle of rows and columns, as wide as high.
        margin: Voxels of the image around that box.
    """

    to: Literal["nonzero", "body", "square"]
    margin: Annotated[int, Field(ge=0, le=512)] = 0


class Sliding(Table):
    """``[inputs.sliding]``: the model is given one patch of the image after another.

    Attributes:
        patch: Size in the grid of the model, two or three numbers.
        overlap: Share of a patch that the next one covers too; the patches are spread evenly, so
            it may be more.
        blend: How much each voxel of a patch counts where several cover a place: ``gaussian``,
            the more the nearer to the middle of the patch (a standard deviation of an eighth of
            its size); ``constant``, all the same.
    """

    patch: tuple[Count, ...]
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    blend: Literal["gaussian", "constant"] = "gaussian"


class Input(Table):
    """``[[inputs]]``: one image a model wants and what is done to it, in this order.

    Lowest value made black, orientation, crop, resampling, window, normalisation, padding,
    channels, layout. An input that is not the primary one is brought to the grid of that one first;
    of the grid it says the same. An input of an earlier study has no place in common with it: it
    keeps its own grid. One that is optional and not there is filled with `pad_value`, and
    its fact ``present`` is 0.

    Attributes:
        units: UCUM code of the values.
        prior: It is of an earlier study of the patient.
        neighbours: Slices on each side that a slice is given with, as channels in their order; the
            first and last slice of the image are repeated beyond it.
        colour: An image in colour is refused, taken as its luminance, or given as its red, green
            and blue; a grey one then has three equal channels.
        body_above: What is above is body; found by Otsu's method unless given. The body is the
            largest connected part of that, without holes within a slice.
        windows: Several windows of the same values, a channel each.
        fit: ``inside``: `size` is met by one factor for all axes and padding.
        pad: Padding goes to the ``end`` of each axis, or to both sides of the ``centre``.
        least: Each axis is padded to so many voxels at least.
        content: What the pixels must show before the model sees them.
    """

    role: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    primary: bool = False
    optional: bool = False
    prior: bool = False
    tensor: TensorName
    modality: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Z0-9]{1,16}$")], ...], Field(min_length=1)
    ]
    units: UnitCode
    dimensions: Literal["2D", "2.5D", "3D"]
    apply: Literal["whole", "slices"] = "whole"
    batch: Annotated[int, Field(ge=1, le=256, description="Items a run.")] = 8
    neighbours: Annotated[int, Field(ge=0, le=31)] = 0
    min_slices: Count = 1
    max_slices: Count = 4096
    black_lowest: bool = False
    colour: Literal["refused", "luminance", "rgb"] = "refused"
    orientation: Annotated[str, Field(pattern=r"^[LRAPSI]{3}$")] | None = None
    body_above: Number | None = None
    crop: Crop | None = None
    spacing: tuple[Positive, ...] | None = None
    size: tuple[Count, ...] | None = None
    fit: Literal["stretch", "inside"] = "stretch"
    interpolation: Interpolation = "linear"
    window: Window | None = None
    windows: tuple[Window, ...] = ()
    normalisation: Normalisation = Normalisation()
    pad: Literal["end", "centre"] = "end"
    least: tuple[Count, ...] | None = None
    multiple_of: Annotated[int, Field(ge=1, le=512)] = 1
    pad_value: Number = 0.0
    sliding: Sliding | None = None
    channels: Annotated[int, Field(ge=1, le=63)] = 1
    layout: Literal["NCHW", "NHWC", "NHW", "NCDHW", "NDHWC", "NDHW"]
    facts: dict[str, Fact] = Field(default_factory=dict, description="ONNX input → fact.")
    content: Content | None = None

    @property
    def axes(self) -> int:
        """Axes of the image that the tensor has: 2 or 3."""
        return 3 if self.dimensions == "3D" else 2

    @property
    def at_once(self) -> bool:
        """The graph is given a volume as a whole: one long run a job."""
        return self.axes == 3 and self.sliding is None

    @property
    def needs_body(self) -> bool:
        """The body is looked for."""
        cropped = self.crop is not None and self.crop.to == "body"
        return cropped or self.normalisation.over == "body"

    @model_validator(mode="after")
    def _keys_agree(self) -> Input:
        wrong = [text for fails, text in (*self._grid(), *self._values()) if fails]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _grid(self) -> Iterator[tuple[bool, str]]:
        grids = (self.spacing, self.size, self.least)
        yield (
            self.apply == "slices" and self.axes == 3,
            'apply = "slices" needs dimensions = "2D" or "2.5D"',
        )
        yield (
            (self.dimensions == "2.5D") != (self.neighbours > 0),
            'neighbours go with dimensions = "2.5D", and only with it',
        )
        yield (
            self.dimensions == "2.5D" and self.apply != "slices",
            'dimensions = "2.5D" needs apply = "slices"',
        )
        yield self.min_slices > self.max_slices, "min_slices is above max_slices"
        yield self.primary and self.optional, "the primary input cannot be optional"
        yield self.primary and self.prior, "the primary input is of the study itself"
        both = self.spacing is not None and self.size is not None
        yield both, "spacing and size exclude each other"
        yield (
            any(given is not None and len(given) != self.axes for given in grids),
            f"spacing, size and least have {self.axes} entries for dimensions = "
            f"{self.dimensions!r}",
        )
        yield (
            self.sliding is not None and len(self.sliding.patch) != self.axes,
            f"sliding.patch has {self.axes} entries for dimensions = {self.dimensions!r}",
        )
        yield self.fit == "inside" and self.size is None, 'fit = "inside" needs a size'
        yield (
            self.orientation is not None and len(_body_axes(self.orientation)) != 3,
            "orientation names each of L/R, A/P and S/I once",
        )
        yield ("D" in self.layout) != (self.axes == 3), "layout has D for 3D, and only then"

    def _values(self) -> Iterator[tuple[bool, str]]:
        norm = self.normalisation
        wanted = 2 * self.neighbours + 1 if self.neighbours else len(self.windows)
        yield "C" not in self.layout and self.channels != 1, "a layout without C has one channel"
        yield (
            wanted > 0 and self.channels != wanted,
            f"channels is {wanted}: one for each of the windows, or for a slice and its neighbours",
        )
        yield (
            self.neighbours > 0 and len(self.windows) > 0,
            "neighbours and windows exclude another",
        )
        yield self.window is not None and len(self.windows) > 0, "give window or windows, not both"
        yield (
            self.colour == "rgb"
            and (self.dimensions, self.channels, self.windows) != ("2D", 3, ()),
            'colour = "rgb" needs dimensions = "2D", channels = 3 and no windows',
        )
        yield len(self.windows) > 0 and norm.kind != "window", 'windows need normalisation "window"'
        yield (
            norm.kind == "window" and self.window is None and not self.windows,
            'normalisation "window" needs a window',
        )
        yield (
            any(len(given) != self.channels for given in (norm.mean, norm.sd) if given is not None),
            "normalisation.mean and sd have one number a channel",
        )
        for name, ends in (("to", norm.to), ("percentiles", norm.percentiles)):
            text = f"normalisation.{name} rises from its first to its second number"
            yield ends[0] >= ends[1], text
        yield (
            norm.over != "all" and norm.kind not in ("minmax", "percentiles", "zscore"),
            'normalisation.over needs "minmax", "percentiles" or "zscore"',
        )
        yield (
            norm.over == "crop" and self.crop is None,
            'normalisation.over = "crop" needs a crop',
        )
        yield (
            norm.outside is not None and norm.over not in ("nonzero", "body"),
            'normalisation.outside needs over = "nonzero" or "body"',
        )
        yield (
            self.body_above is not None and not self.needs_body,
            "body_above says what the body is, and nothing asks for it",
        )
        yield (
            self.black_lowest and "lowest_is_white" in self.facts.values(),
            "black_lowest turns the values, so the fact lowest_is_white would mislead",
        )


def _body_axes(letters: str) -> set[int]:
    return {next(i for i, pair in enumerate(("LR", "AP", "SI")) if x in pair) for x in letters}
