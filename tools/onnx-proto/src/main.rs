//! Regenerates `src/model/proto/onnx.rs`, or with `--check` fails if it differs from the schema.

use std::{error::Error, fs, path::Path, process::ExitCode};

fn generate(folder: &Path) -> Result<String, Box<dyn Error>> {
    let descriptors = protox::compile([folder.join("onnx-ml.proto")], [folder])?;
    let out = tempfile::tempdir()?;
    prost_build::Config::new()
        .bytes([".onnx.TensorProto.raw_data"])
        .out_dir(out.path())
        .compile_fds(descriptors)?;
    Ok(fs::read_to_string(out.path().join("onnx.rs"))?)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/model/proto");
    let committed = folder.join("onnx.rs");
    let fresh = generate(&folder)?;
    if std::env::args().any(|a| a == "--check") {
        let same = fs::read_to_string(&committed)? == fresh;
        println!("onnx.rs {} the schema", if same { "matches" } else { "differs from" });
        return Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    fs::write(&committed, fresh)?;
    Ok(ExitCode::SUCCESS)
}
