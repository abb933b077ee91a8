// The page of `tla report` in headless Chromium, from a file: its curves have the points of the journal, it
// asks for nothing, and an answer that tries to be a script is text.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { launch } from "./chromium.mjs";

const [made, given] = process.argv.slice(2);
const lines = readFileSync(join(made, "run/journal.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
const of = (kind) => lines.filter((line) => line.kind === kind);
const steps = of("step");
const hostile = of("answers")[0].answers[0].before;
const home = pathToFileURL(join(made, "run/report.html")).href;

const faults = [];
function hold(what, sound, detail = "") {
  if (!sound) faults.push(`${what}: ${detail}`);
}
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

const browser = await launch(given);
try {
  const page = await browser.newPage();
  await page.setViewport({ width: 1180, height: 900 });
  let refused = false;
  page.on("console", (message) => hold("console", refused, message.text()));
  page.on("pageerror", (error) => hold("error", false, error.message));
  page.on("dialog", (dialog) => { hold("dialog", false, dialog.message()); dialog.dismiss(); });
  page.on("request", (request) => hold("request", request.url() === home, request.url()));
  await page.goto(home, { waitUntil: "networkidle0" });

  const curves = await page.$$eval("polyline", (all) => all.map((curve) => ({
    name: curve.dataset.name,
    points: curve.points.numberOfItems,
    values: curve.dataset.values.split(" ").map(Number),
  })));
  hold("curves", curves.length >= 8, `${curves.length}`);
  for (const { name, points } of curves) hold(`points of ${name}`, points === steps.length, `${points}`);
  const values = (name) => curves.find((curve) => curve.name === name)?.values;
  hold("reward", same(values("of the step"), steps.map((step) => step.reward_mean)));
  hold("entropy", same(values("Entropy"), steps.map((step) => step.entropy_mean)));

  const texts = await page.$$eval("pre", (all) => all.map((pre) => pre.textContent));
  hold("hostile answer", texts.includes(hostile), "is not shown as it is");
  const elements = await page.evaluate(() => [document.scripts.length, document.images.length, document.title]);
  hold("elements", same(elements.slice(0, 2), [1, 0]), elements.join(" "));
  hold("title", elements[2].includes("wordmath"), elements[2]);

  // The pointer on the first curve shows one step in all of them.
  const box = await (await page.$("#curve svg")).boundingBox();
  await page.mouse.move(box.x + box.width * 0.5, box.y + box.height * 0.5);
  const shown = await page.$$eval("figcaption output", (all) => all.map((output) => output.textContent));
  const step = Number(/^step (\d+)/.exec(shown[0])?.[1]);
  hold("pointer", shown.every((text) => text.startsWith(`step ${step}`)), shown.join(" | "));
  const reward = steps.find((other) => other.step === step)?.reward_mean;
  hold("value at the pointer", shown[0].includes(String(Number(reward?.toPrecision(4)))), `${shown[0]}, ${reward}`);

  // What got past the escaping would still be stopped: the policy knows one script and one style.
  refused = true;
  const ran = await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.taken = true";
    document.body.append(script);
    return window.taken === true;
  });
  hold("policy", !ran, "a script that is not the page's own ran");

  for (const [scheme, width] of [["dark", 1180], ["light", 390]]) {
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    const [wide, paper, ink] = await page.evaluate(() => {
      const style = getComputedStyle(document.body);
      return [document.documentElement.scrollWidth, style.backgroundColor, style.color];
    });
    hold(`${scheme}, ${width} wide`, wide <= width && paper !== ink, `${wide} ${paper} ${ink}`);
  }
  console.log(`${await browser.version()}: ${curves.length} curves of ${steps.length} steps`);
} finally {
  await browser.close();
}
for (const fault of faults) console.log(fault);
process.exitCode = faults.length ? 1 : 0;
