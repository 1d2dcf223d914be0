//! See `ackline_fuzz::frame`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ackline_fuzz::frame::run(data));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    ackline_fuzz::replay(ackline_fuzz::frame::run)
}
