//! A Cortex-M under a debugger or QEMU: vector table, start, and semihosting for output and exit.

use core::arch::{asm, global_asm};

// Paints the stack and passes its ends on.
global_asm!(
    ".section .vectors, \"a\"",
    ".word stack_top, reset",
    ".section .text.reset, \"ax\"",
    ".globl reset",
    ".thumb_func",
    "reset:",
    "ldr r0, =stack_bottom",
    "ldr r1, =stack_top",
    "ldr r2, ={paint}",
    "mov r3, r0",
    "2: stmia r3!, {{r2}}",
    "cmp r3, r1",
    "blo 2b",
    "bl {run}",
    ".pool",
    paint = const super::PAINT,
    run = sym super::run,
);

const OPEN: usize = 0x01;
const WRITE: usize = 0x05;
const EXIT: usize = 0x18;
const APPLICATION_EXIT: usize = 0x20026;

/// Writes to stdout.
pub fn write(bytes: &[u8]) {
    let name = b":tt\0";
    let to_write = 4;
    let stdout = call(OPEN, [name.as_ptr() as usize, to_write, name.len() - 1].as_ptr() as usize);
    call(WRITE, [stdout, bytes.as_ptr() as usize, bytes.len()].as_ptr() as usize);
}

/// Ends the program: 0, or 1 for any other code.
pub fn exit(code: i32) -> ! {
    call(EXIT, if code == 0 { APPLICATION_EXIT } else { 0 });
    loop {}
}

fn call(operation: usize, parameter: usize) -> usize {
    let answer;
    // SAFETY: the host reads what the parameter points to and answers in r0.
    unsafe { asm!("bkpt 0xab", inlateout("r0") operation => answer, in("r1") parameter) };
    answer
}
