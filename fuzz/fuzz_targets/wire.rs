#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    drop(tla_fuzz::properties::wire::wire(data));
});
