// The same on a page in headless Chromium, served from here; a request to anywhere else is a failure.
import { createReadStream, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { launch } from "./chromium.mjs";
import { judge } from "./generate.mjs";

const TYPES = {
  ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json",
  ".wasm": "application/wasm",
};
const [made, given] = process.argv.slice(2);

function serve(request, response) {
  const path = normalize(new URL(request.url, "http://localhost").pathname);
  const file = path.startsWith("/models/") ? join(made, path.slice(8)) : join(import.meta.dirname, path);
  createReadStream(file)
    .on("open", () => response.writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream" }))
    .on("error", () => response.writeHead(404).end())
    .pipe(response);
}

const server = createServer(serve);
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const home = `http://127.0.0.1:${server.address().port}`;
const browser = await launch(given);
let passed = false;
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  const strays = [];
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    const here = request.url().startsWith(`${home}/`) || /^(blob|data):/.test(request.url());
    if (here) return request.continue();
    strays.push(request.url());
    return request.abort();
  });
  page.on("pageerror", (error) => console.error(error));
  await page.goto(`${home}/page.html`);
  await page.waitForFunction("window.run", { timeout: 60_000 });
  const { told, versions } = await page.evaluate("window.run()");
  console.log(`${await browser.version()}, ${Object.entries(versions).map((pair) => pair.join(" ")).join(", ")}`);
  passed = judge(told, JSON.parse(readFileSync(join(made, "answers.json"), "utf8")));
  for (const url of strays) console.log(`asked for ${url}`);
  passed &&= strays.length === 0;
} finally {
  await browser.close();
  server.close();
}
process.exitCode = passed ? 0 : 1;
