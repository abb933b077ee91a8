//! How to link without the C start-up files and libraries.

fn main() {
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let arguments: &[&str] = match os.as_str() {
        "none" => &[concat!("-T", env!("CARGO_MANIFEST_DIR"), "/cortex-m.ld")],
        _ => &["-nostartfiles", "-nostdlib", "-static", "-no-pie"],
    };
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=cortex-m.ld");
}
