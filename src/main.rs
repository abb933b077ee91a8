//! The `tla` program.

fn main() -> std::process::ExitCode {
    tla::cli::run()
}
