// transformers.js in Node generates from folders that `tla bake` made.
import { readFileSync } from "node:fs";
import * as transformers from "@huggingface/transformers";
import { NAMES, answer, judge } from "./generate.mjs";

const made = process.argv[2];
transformers.env.allowRemoteModels = false;
transformers.env.localModelPath = `${made}/`;
const expected = JSON.parse(readFileSync(`${made}/answers.json`, "utf8"));
console.log(`transformers.js ${transformers.env.version}, node ${process.version}`);
const told = {};
for (const name of NAMES) {
  const template = readFileSync(`${made}/${name}/chat_template.jinja`, "utf8");
  told[name] = await answer(transformers, "cpu", name, template, expected[name].map((e) => e.question));
}
process.exitCode = judge(told, expected) ? 0 : 1;
