#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tla_fuzz::properties::text::answers(data);
});
