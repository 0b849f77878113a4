// Opens a study in OHIF as a reader would, and writes what is on the screen.
//
//   node drive.mjs TASK.json
//
// The task: address, folder, playwright, chromium; study (Study Instance UID); segmentation (its
// Series Description); planes: [{name, points}], points in LPS millimetres, all on one slice; report
// (its Series Description) and findings, how many of it are looked at, one after the other; overlay
// (its Series Description) and frames: [{name, index, points}], points as column and row.
// Writes a picture of each plane, finding and frame, and seen.json: segments (their labels); planes
// and frames [{name, at}], the place of each point in pixels of the picture; findings [{text, box}],
// what stands beside the outline and its two extreme corners in LPS millimetres; series, whether
// the viewer shows it, by Series Description.

import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";

const task = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { chromium } = createRequire(import.meta.url)(task.playwright);
const PATIENCE = 90_000;

const browser = await chromium.launch({
  executablePath: task.chromium,
  args: [
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
  ],
});
const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
page.setDefaultTimeout(PATIENCE);
const seen = { planes: [], segments: [], findings: [], frames: [], series: {} };

const picture = (name) => page.screenshot({ path: `${task.folder}/${name}.png` });

// The viewport has drawn when a whole second passes without another picture.
async function settled() {
  await page.evaluate(
    () =>
      new Promise((resolve) => {
        const [viewport] = window.cornerstone.getRenderingEngines()[0].getViewports();
        let timer = setTimeout(resolve, 1000);
        viewport.element.addEventListener("CORNERSTONE_IMAGE_RENDERED", () => {
          clearTimeout(timer);
          timer = setTimeout(resolve, 1000);
        });
      }),
  );
}

try {
  await open();
  await segmentation();
  await open();
  await report();
  await open();
  await overlay();
} catch (error) {
  await picture("failed");
  throw error;
} finally {
  await browser.close();
}
writeFileSync(`${task.folder}/seen.json`, JSON.stringify(seen, null, 1));

async function open() {
  await page.goto(`${task.address}/viewer?StudyInstanceUIDs=${task.study}`);
  if (!seen.segments.length) await page.getByText("Skip all").click(); // a first visit's tour
  await page.waitForFunction(
    () => window.cornerstone?.getRenderingEngines()?.[0]?.getViewports()?.[0]?.getCurrentImageId(),
  );
  await settled();
}

async function segmentation() {
  await page.getByText(task.segmentation).first().dblclick();
  await page.getByText("Yes", { exact: true }).click(); // do you want to open it?
  await page.waitForFunction(() => window.services.segmentationService.getSegmentations().length);
  await settled();
  seen.segments = await page.evaluate(() =>
    window.services.segmentationService
      .getSegmentations()
      .flatMap((each) => Object.values(each.segments).map((segment) => segment.label)),
  );
  for (const plane of task.planes) {
    await page.evaluate((point) => {
      window.cornerstone.getRenderingEngines()[0].getViewports()[0].jumpToWorld(point);
    }, plane.points[0]);
    await settled();
    const at = await page.evaluate((points) => {
      const [viewport] = window.cornerstone.getRenderingEngines()[0].getViewports();
      const place = viewport.element.getBoundingClientRect();
      return points.map((point) => {
        const [x, y] = viewport.worldToCanvas(point);
        return [place.x + x, place.y + y];
      });
    }, plane.points);
    await picture(plane.name);
    seen.planes.push({ name: plane.name, at });
  }
}

async function report() {
  await page.getByText(task.report).first().dblclick();
  for (let number = 0; number < task.findings; number++) {
    if (number) await page.locator('[data-cy="viewport-action-arrows-right"]').click();
    await page.locator("svg.svg-layer polyline").first().waitFor({ state: "attached" });
    await settled();
    await page.mouse.move(700 + number, 400); // an outline is drawn when the mouse moves
    await page.waitForTimeout(1000);
    const finding = await page.evaluate(() => {
      const [viewport] = window.cornerstone.getRenderingEngines()[0].getViewports();
      const layer = document.querySelector("svg.svg-layer");
      const numbers = layer.querySelector("polyline").getAttribute("points").match(/-?[\d.]+/g);
      const x = numbers.filter((_, index) => index % 2 === 0).map(Number);
      const y = numbers.filter((_, index) => index % 2 === 1).map(Number);
      const corner = (pick) => viewport.canvasToWorld([pick(...x), pick(...y)]);
      const lines = [...layer.querySelectorAll("tspan")].map((line) => line.textContent);
      return { text: lines, box: [corner(Math.min), corner(Math.max)].map((at) => [...at]) };
    });
    await picture(`finding-${number + 1}`);
    seen.findings.push(finding);
  }
}

async function overlay() {
  seen.series = await page.evaluate(() =>
    Object.fromEntries(
      window.services.displaySetService
        .getActiveDisplaySets()
        .map((each) => [each.SeriesDescription, !each.unsupported]),
    ),
  );
  const before = await page.evaluate(() =>
    window.cornerstone.getRenderingEngines()[0].getViewports()[0].getCurrentImageId(),
  );
  await page.getByText(task.overlay).first().dblclick();
  await page.waitForFunction((other) => {
    const [viewport] = window.cornerstone.getRenderingEngines()[0].getViewports();
    return viewport.getCurrentImageId() !== other;
  }, before);
  await settled();
  for (const frame of task.frames) {
    await page.evaluate(async (index) => {
      await window.cornerstone.getRenderingEngines()[0].getViewports()[0].setImageIdIndex(index);
    }, frame.index);
    await settled();
    const at = await page.evaluate((points) => {
      const [viewport] = window.cornerstone.getRenderingEngines()[0].getViewports();
      const { imageData } = viewport.getImageData();
      const place = viewport.element.getBoundingClientRect();
      return points.map(([column, row]) => {
        const [x, y] = viewport.worldToCanvas(imageData.indexToWorld([column, row, 0]));
        return [place.x + x, place.y + y];
      });
    }, frame.points);
    await picture(frame.name);
    seen.frames.push({ name: frame.name, at });
  }
}
