// Greedy answers by transformers.js, the same in Node and on a page.

export const NAMES = ["base", "merged", "grafted"];

/** The texts that the model `name` answers; `template` because transformers.js reads no chat_template.jinja. */
export async function answer({ AutoTokenizer, AutoModelForCausalLM }, device, name, template, questions) {
  const tokenizer = await AutoTokenizer.from_pretrained(name, { local_files_only: true });
  const options = { local_files_only: true, dtype: "fp32", device };
  const model = await AutoModelForCausalLM.from_pretrained(name, options);
  const texts = [];
  for (const content of questions) {
    const inputs = tokenizer.apply_chat_template([{ role: "user", content }], {
      chat_template: template, add_generation_prompt: true, return_dict: true,
    });
    const output = await model.generate({ ...inputs, max_new_tokens: 64, do_sample: false });
    const fresh = output.slice(null, [inputs.input_ids.dims[1], null]);
    texts.push(...tokenizer.batch_decode(fresh, { skip_special_tokens: true }));
  }
  await model.dispose();
  return texts;
}

/** Compares texts by name with what `tla eval` wrote; returns whether all is as it must be. */
export function judge(told, expected) {
  let passed = true;
  for (const name of NAMES) {
    const same = expected[name].filter(({ text }, i) => text === told[name][i]).length;
    console.log(`${name}: ${same} of ${expected[name].length} texts are those of tla eval`);
    passed &&= same === expected[name].length && same === told[name].length;
  }
  const equal = told.merged.filter((text, i) => text === told.grafted[i]).length;
  const moved = told.merged.filter((text, i) => text !== told.base[i]).length;
  console.log(`merged and grafted: ${equal} texts the same; merged and base: ${moved} differ`);
  return passed && equal === told.merged.length && moved > 0;
}
