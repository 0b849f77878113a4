// Opens a study in OHIF as a reader would, and writes what is on the screen.
//
//   node drive.mjs TASK.json
//
// The task: address, folder, playwright, chromium; study (Study Instance UID); segmentation (its
// Series Description); planes: [{name, points}], points in LPS millimetres, all on one slice.
// Writes a picture of each plane, and seen.json: segments (their labels), planes [{name, at}] with
// the place of each point in pixels of the picture.

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
const seen = { planes: [], segments: [] };

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
  await page.goto(`${task.address}/viewer?StudyInstanceUIDs=${task.study}`);
  await page.getByText("Skip all").click(); // the tour of a first visit
  await page.waitForFunction(
    () => window.cornerstone?.getRenderingEngines()?.[0]?.getViewports()?.[0]?.getCurrentImageId(),
  );
  await settled();
  if (task.segmentation) await segmentation();
} catch (error) {
  await picture("failed");
  throw error;
} finally {
  await browser.close();
}
writeFileSync(`${task.folder}/seen.json`, JSON.stringify(seen, null, 1));

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
