// Opens the page in a browser and does what people do: node page.mjs URL. Prints what it saw as JSON.
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_MODULES + "/");
const { chromium } = require("playwright-core");
let axe;
try { axe = require.resolve("axe-core/axe.min.js"); } catch { axe = null; }

const SIZES = [[360, 740], [390, 844], [768, 1024], [1024, 768], [844, 390]];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
const seen = { errors: [], cut: {}, axe: {} };
page.on("pageerror", (error) => seen.errors.push(String(error)));
await page.goto(process.argv[2], { waitUntil: "domcontentloaded" });
await page.waitForFunction(() => /[1-9]\d* frames/.test(document.querySelector(".meter .fps")?.textContent ?? ""), null, { timeout: 60000 });

const picture = () => page.evaluate(() => document.querySelector(".picture").toDataURL());
const values = () => page.evaluate(() => [...document.querySelectorAll("table.values tbody tr")].map((row) => row.textContent));
let before = await picture();
await page.keyboard.down("ArrowRight"); await page.waitForTimeout(1500); await page.keyboard.up("ArrowRight");
seen.plays = (await picture()) !== before;

await page.click('[data-do="pause"]'); await page.waitForTimeout(500);
let were = await values();
const map = await page.locator(".map canvas").boundingBox();
await page.mouse.move(map.x + map.width * 0.35, map.y + map.height * 0.35);
await page.mouse.down(); await page.mouse.up(); await page.waitForTimeout(1500);
seen.drags = JSON.stringify(await values()) !== JSON.stringify(were);
were = await values();
await page.focus(".map canvas");
await page.keyboard.press("Enter"); await page.keyboard.press("ArrowRight"); await page.waitForTimeout(1500);
seen.movesByKeys = JSON.stringify(await values()) !== JSON.stringify(were);
await page.click('[data-do="pause"]');

await page.fill(".tell input", "the light goes out"); await page.press(".tell input", "Enter"); await page.waitForTimeout(1500);
seen.refused = await page.locator(".toast").isVisible();
await page.click('[data-do="record"]'); await page.waitForTimeout(1500); await page.click('[data-do="record"]');
await page.waitForSelector(".download:not([hidden])", { timeout: 20000 });
seen.records = true;
await page.evaluate(() => document.querySelector("#page-head button").click());
const dark = await page.evaluate(() => document.body.classList.contains("dark"));
await page.reload({ waitUntil: "domcontentloaded" }); await page.waitForSelector(".stage"); await page.waitForTimeout(2000);
seen.remembersTheme = dark === (await page.evaluate(() => document.body.classList.contains("dark")));

for (const [width, height] of SIZES) {
  await page.setViewportSize({ width, height }); await page.waitForTimeout(700);
  seen.cut[`${width}x${height}`] = await page.evaluate(() => [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width && box.height && getComputedStyle(element).visibility !== "hidden" && (box.right > innerWidth + 1 || box.left < -1);
  }).map((element) => element.outerHTML.slice(0, 80)));
  if (!axe) continue;
  await page.addScriptTag({ path: axe });
  seen.axe[`${width}x${height}`] = await page.evaluate(async () => (await globalThis.axe.run(document)).violations
    .filter((found) => ["serious", "critical"].includes(found.impact)).map((found) => `${found.id}: ${found.nodes[0].target}`));
}
console.log(JSON.stringify(seen));
await browser.close();
