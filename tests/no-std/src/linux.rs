//! x86-64 Linux without libc: start, `write`, `exit`, and what a compiler takes for granted.

use core::arch::{asm, global_asm};

// Paints 64 KiB, makes them the stack, and passes their ends on.
global_asm!(
    ".globl _start",
    "_start:",
    "lea rdi, [rip + painted]",
    "mov ecx, 65536 / 4",
    "mov eax, {paint}",
    "rep stosd",
    "mov rsp, rdi",
    "mov rsi, rdi",
    "lea rdi, [rip + painted]",
    "xor ebp, ebp",
    "call {run}",
    ".local painted",
    ".comm painted, 65536, 16",
    paint = const super::PAINT,
    run = sym super::run,
);

/// Writes to stdout.
pub fn write(bytes: &[u8]) {
    // SAFETY: write(1, …) reads these bytes and changes only rax, rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") 1 => _, in("rdi") 1, in("rsi") bytes.as_ptr(),
             in("rdx") bytes.len(), out("rcx") _, out("r11") _, options(nostack, readonly));
    }
}

/// Ends the program.
pub fn exit(code: i32) -> ! {
    // SAFETY: exit does not return.
    unsafe { asm!("syscall", in("rax") 60, in("rdi") code, options(noreturn, nostack)) }
}

// Code for Linux expects these of libc.
global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    "memmove:",
    "mov rax, rdi",
    "sub rax, rsi",
    "cmp rax, rdx", // Unsigned: below the length only if the end of one overlaps the other.
    "mov rax, rdi",
    "mov rcx, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "memcmp:",
    "bcmp:",
    "xor eax, eax",
    "mov rcx, rdx",
    "cmp rcx, rcx", // Equal if there is nothing to compare.
    "repe cmpsb",
    "je 3f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub ecx, eax",
    "mov eax, ecx",
    "3: ret",
);
