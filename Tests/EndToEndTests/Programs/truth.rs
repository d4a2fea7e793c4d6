// The truth test for Rust: threads that allocate, resize and free at random through the global allocator, and a record of it as
// in record.h. --cfg rjem or --cfg mimalloc makes that an allocator linked into the program, else it is the default one.
//
//   truth THREADS OPERATIONS CHECKPOINTS SEED
//
// What is called from where is the compiler's affair here: one site stands for all.

use std::alloc::{alloc, alloc_zeroed, dealloc, realloc, Layout};
use std::ffi::CString;
use std::os::raw::{c_char, c_int, c_long, c_void};
use std::sync::{Arc, Barrier};

#[cfg(rjem)]
mod own {
    use std::alloc::{GlobalAlloc, Layout};
    use std::os::raw::{c_int, c_void};

    extern "C" {
        fn _rjem_malloc(size: usize) -> *mut c_void;
        fn _rjem_calloc(count: usize, size: usize) -> *mut c_void;
        fn _rjem_realloc(block: *mut c_void, size: usize) -> *mut c_void;
        fn _rjem_mallocx(size: usize, flags: c_int) -> *mut c_void;
        fn _rjem_rallocx(block: *mut c_void, size: usize, flags: c_int) -> *mut c_void;
        fn _rjem_sdallocx(block: *mut c_void, size: usize, flags: c_int);
    }

    // As the crate tikv-jemallocator.
    pub struct Allocator;
    fn flags(layout: &Layout) -> c_int {
        if layout.align() <= 16 { 0 } else { layout.align().trailing_zeros() as c_int }
    }
    unsafe impl GlobalAlloc for Allocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            match flags(&layout) {
                0 => _rjem_malloc(layout.size()) as *mut u8,
                flags => _rjem_mallocx(layout.size(), flags) as *mut u8,
            }
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            match flags(&layout) {
                0 => _rjem_calloc(1, layout.size()) as *mut u8,
                flags => _rjem_mallocx(layout.size(), flags | 0x40) as *mut u8,
            }
        }
        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            _rjem_sdallocx(block as *mut c_void, layout.size(), flags(&layout))
        }
        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            match flags(&layout) {
                0 => _rjem_realloc(block as *mut c_void, size) as *mut u8,
                flags => _rjem_rallocx(block as *mut c_void, size, flags) as *mut u8,
            }
        }
    }
}

#[cfg(mimalloc)]
mod own {
    use std::alloc::{GlobalAlloc, Layout};
    use std::os::raw::c_void;

    extern "C" {
        fn mi_malloc_aligned(size: usize, alignment: usize) -> *mut c_void;
        fn mi_zalloc_aligned(size: usize, alignment: usize) -> *mut c_void;
        fn mi_realloc_aligned(block: *mut c_void, size: usize, alignment: usize) -> *mut c_void;
        fn mi_free(block: *mut c_void);
    }

    // As the crate mimalloc.
    pub struct Allocator;
    unsafe impl GlobalAlloc for Allocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            mi_malloc_aligned(layout.size(), layout.align()) as *mut u8
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            mi_zalloc_aligned(layout.size(), layout.align()) as *mut u8
        }
        unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
            mi_free(block as *mut c_void)
        }
        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            mi_realloc_aligned(block as *mut c_void, size, layout.align()) as *mut u8
        }
    }
}

#[cfg(any(rjem, mimalloc))]
#[global_allocator]
static GLOBAL: own::Allocator = own::Allocator;

extern "C" {
    fn mmap(at: *mut c_void, size: usize, access: c_int, flags: c_int, file: c_int, offset: c_long) -> *mut c_void;
    fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int;
    fn write(file: c_int, bytes: *const c_void, size: usize) -> isize;
    fn read(file: c_int, bytes: *mut c_void, size: usize) -> isize;
    fn close(file: c_int) -> c_int;
    fn syscall(number: c_long) -> c_long;
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Block {
    address: u64,
    size: u64,
    alignment: u64,
    site: u32,
    thread: u32,
}

const SLOTS: usize = 6000;

// What the allocator is asked for where no more than the usual is needed: mimalloc's crate always says.
const USUAL_ALIGNMENT: u64 = if cfg!(mimalloc) { 8 } else { 0 };

// Zeroed memory that no allocator knows of.
fn table(count: usize) -> &'static mut [Block] {
    unsafe {
        let memory = mmap(std::ptr::null_mut(), count * 32, 3, 0x22, -1, 0);
        assert!(memory as isize != -1);
        std::slice::from_raw_parts_mut(memory as *mut Block, count)
    }
}

fn say(text: &str) {
    unsafe { assert!(write(1, text.as_ptr() as *const c_void, text.len()) == text.len() as isize) }
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn layout(block: &Block) -> Layout {
    Layout::from_size_align(block.size as usize, std::cmp::max(block.alignment as usize, 8)).unwrap()
}

fn operate(state: &mut u64, blocks: &mut [Block], thread: u32) {
    let block = &mut blocks[next(state) as usize % SLOTS];
    let size = 1 + (next(state) & ((1 << (1 + next(state) % 14)) - 1));
    unsafe {
        if block.address == 0 {
            let alignment = if next(state) % 4 == 0 { 32u64 << (next(state) % 6) } else { USUAL_ALIGNMENT };
            *block = Block { address: 0, size, alignment, site: 0, thread };
            let zeroed = next(state) % 3 == 0;
            let p = if zeroed { alloc_zeroed(layout(block)) } else { alloc(layout(block)) };
            assert!(!p.is_null());
            for i in 0..size as usize {
                assert!(!zeroed || *p.add(i) == 0);
                *p.add(i) = size as u8;
            }
            block.address = p as u64;
        } else if next(state) % 3 == 0 {
            let old = *block;
            block.address = 0;
            let p = realloc(old.address as *mut u8, layout(&old), size as usize);
            assert!(!p.is_null());
            for i in 0..std::cmp::min(old.size, size) as usize {
                assert!(*p.add(i) == old.size as u8);
            }
            for i in 0..size as usize {
                *p.add(i) = size as u8;
            }
            *block = Block { address: p as u64, size, alignment: old.alignment, site: 0, thread };
        } else {
            let old = *block;
            block.address = 0;
            dealloc(old.address as *mut u8, layout(&old));
        }
    }
}

fn checkpoint(number: usize, tables: &[&'static mut [Block]], path: &CString) {
    unsafe {
        let file = open(path.as_ptr(), 0o1 | 0o100 | 0o1000, 0o600);
        assert!(file >= 0);
        for blocks in tables {
            for block in blocks.iter().filter(|block| block.address != 0) {
                assert!(write(file, block as *const Block as *const c_void, 32) == 32);
            }
        }
        close(file);
        let line = [b'0' + number as u8, b'\n'];
        say("checkpoint ");
        say(std::str::from_utf8(&line).unwrap());
        let mut answer = 0u8;
        assert!(read(0, &mut answer as *mut u8 as *mut c_void, 1) == 1);
    }
}

// So that whoever starts a thread knows its table without sharing it.
struct Table(*mut Block);
unsafe impl Send for Table {}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|word| word.parse().unwrap()).collect();
    let (threads, operations, checkpoints, seed) = (numbers[0], numbers[1], numbers[2], numbers[3]);
    let directory = std::env::var("RECORD_DIR").unwrap();
    std::fs::write(directory.clone() + "/sites", "0 0 7fffffffffff any\n").unwrap();
    let paths: Vec<CString> = (0..=checkpoints).map(|n| CString::new(format!("{}/{}.blocks", directory, n)).unwrap()).collect();
    let barrier = Arc::new(Barrier::new(threads + 1));
    let mut tables = Vec::with_capacity(threads);
    let mut workers = Vec::with_capacity(threads);
    for index in 0..threads {
        let blocks = table(SLOTS);
        let shared = Table(blocks.as_mut_ptr());
        tables.push(blocks);
        let barrier = barrier.clone();
        workers.push(std::thread::spawn(move || {
            let shared = shared;
            let blocks = unsafe { std::slice::from_raw_parts_mut(shared.0, SLOTS) };
            let thread = unsafe { syscall(186) } as u32; // gettid
            let mut state = 0x9E3779B97F4A7C15u64.wrapping_mul((seed * 64 + index + 1) as u64);
            barrier.wait(); // all threads exist: check point 0
            barrier.wait();
            for _ in 0..checkpoints {
                for _ in 0..operations / threads / checkpoints {
                    operate(&mut state, blocks, thread);
                }
                barrier.wait();
                barrier.wait();
            }
        }));
    }
    for number in 0..=checkpoints {
        barrier.wait();
        checkpoint(number, &tables, &paths[number]);
        barrier.wait();
    }
    for worker in workers {
        worker.join().unwrap();
    }
}
