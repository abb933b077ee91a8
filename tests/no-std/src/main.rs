//! An adapter read with no `std`, no libc and no heap: what a microcontroller would run.
//!
//! Exit status 0: the adapter in the program is good and R is on stdout; 1: it was refused. On
//! stdout: the sum of v and the four entries of R, R[1, 0] computed alone, then the bytes of stack
//! and the room there was, each 8 bytes, little-endian. There is no global allocator, so that a use
//! of the heap would not link.
#![no_std]
#![no_main]

mod adapter;
#[cfg_attr(target_os = "none", path = "cortex_m.rs")]
#[cfg_attr(not(target_os = "none"), path = "linux.rs")]
mod machine;

use core::{hint::black_box, panic::PanicInfo};
use tla::{
    format::{Adapter, ModuleId, Role},
    projection::{Geometry, mixing_entry},
};

static FILE: &[u8; 154] = include_bytes!("../../cli/qwen2-tied.tla");
/// The base digest of the weights this device holds: `tla inspect` prints it.
const BASE: [u8; 32] = [
    0x41, 0x84, 0x77, 0x46, 0xf9, 0xed, 0x01, 0x70, 0xa3, 0x4e, 0x5a, 0xda, 0x10, 0x15, 0xc9, 0xce,
    0xc1, 0x49, 0xa7, 0xbd, 0xa5, 0xd3, 0x51, 0x4c, 0x75, 0x02, 0xa7, 0xdc, 0x05, 0x68, 0xb6, 0x2d,
];
const MODULE: ModuleId = ModuleId::new(1, Role::Down);
/// What the unused stack holds.
const PAINT: u32 = 0xa5a5_a5a5;

/// Where the machine goes when its stack is painted from `bottom` to `top`.
///
/// # Safety
/// Both are aligned ends of readable memory, and the stack grows from `top` towards `bottom`.
#[unsafe(no_mangle)]
unsafe extern "C" fn run(bottom: *const u32, top: *const u32) -> ! {
    // The compiler must not know the bytes: a flash would hold them.
    let Some(numbers) = numbers(black_box(FILE)) else { machine::exit(1) };
    let mut untouched = bottom;
    // SAFETY: from bottom to top, by the caller's word.
    while untouched < top && unsafe { untouched.read_volatile() } == PAINT {
        untouched = untouched.wrapping_add(1);
    }
    numbers.iter().for_each(|number| machine::write(&number.to_le_bytes()));
    machine::write(&((top as usize - untouched as usize) as u64).to_le_bytes());
    machine::write(&((top as usize - bottom as usize) as u64).to_le_bytes());
    machine::exit(0)
}

fn numbers(file: &[u8]) -> Option<[f64; 6]> {
    let mut r = [0.0; 4];
    adapter::mixing(file, &BASE, MODULE, &mut r)?;
    let adapter = Adapter::decode(file).ok()?;
    let sum: f32 = adapter.values().sum();
    let v = adapter.group(0)?.map(f64::from);
    let alone = mixing_entry(&Geometry::from(adapter.header()), MODULE, v, 1, 0)?;
    Some([f64::from(sum), r[0], r[1], r[2], r[3], alone])
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    machine::exit(1)
}
