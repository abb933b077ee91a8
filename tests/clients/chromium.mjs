// A headless Chromium, or exit status 77 where it cannot start.
import puppeteer from "puppeteer-core";

/** The Chromium named by the caller, else the one that an npm package brings. */
export async function launch(given) {
  try {
    if (given) return await puppeteer.launch({ executablePath: given, args: ["--no-sandbox"] });
    const { default: chromium } = await import("@sparticuz/chromium");
    const executablePath = await chromium.executablePath();
    return await puppeteer.launch({ executablePath, args: chromium.args, headless: "shell" });
  } catch (error) {
    // Libraries of the system, which no package of npm brings.
    if (!/error while loading shared libraries/.test(error.message)) throw error;
    console.log(error.message);
    process.exit(77);
  }
}
