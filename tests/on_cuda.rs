//! Rollouts and gradients on a CUDA device against the same on the CPU. Needs a device and a library
//! with CUDA, so it runs only when asked: `benches/gpu.sh` asks.
#![cfg(feature = "train")]

mod grafted;

use grafted::{Case, sampled};
use tla::runtime::{Cuda, Provider, SessionOptions, ready};

const CUDA: Provider = Provider::Cuda(Cuda { device: 0, memory: None });

fn case(name: &str, provider: Provider) -> Case {
    grafted::case(name, SessionOptions::cpu(2).on(provider))
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_device_gives_the_logprobs_and_gradients_of_the_cpu() {
    ready(CUDA).expect("a device");
    for (name, near) in [
        ("wordmath", 1e-3),
        ("exports/optimum-fp32/qwen2-tied", 1e-3),
        ("exports/optimum-fp32/llama-untied", 1e-3),
        ("exports/dynamo-tf5-cache-fp32/qwen2-tied", 1e-3),
        ("exports/dynamo-cache-fp32-op23/qwen2-tied", 1e-3),
        ("exports/transformers.js/model_q4.onnx", 1e-3),
        ("exports/optimum-fp16/qwen2-tied", 3e-2),
        ("exports/genai-fp16-cuda/qwen2-tied", 3e-2),
        ("exports/transformers.js/model_fp16.onnx", 3e-2),
    ] {
        let (mut cpu, mut cuda) = (case(name, Provider::Cpu), case(name, CUDA));
        let answers = cpu.answers(sampled(1));
        let (expected, found) = (cpu.step(&answers), cuda.step(&answers));
        let logprobs = apart(&found.logprobs, &expected.logprobs);
        let gradients = apart(&found.by_mixing, &expected.by_mixing);
        println!("{name}: log-probabilities {logprobs:.1e}, gradients {gradients:.1e}");
        assert!(logprobs < near && gradients < near, "{name}: {logprobs} {gradients}");
        // What is sampled on the device is what is differentiated there.
        let own = cuda.answers(sampled(1));
        let sampled: Vec<f32> = own.iter().flat_map(|a| a.logprobs.clone()).collect();
        let again = apart(&cuda.step(&own).logprobs, &sampled);
        println!("{name}: sampled and differentiated {again:.1e}");
        assert!(again < near, "{name}: {again}");
    }
}
