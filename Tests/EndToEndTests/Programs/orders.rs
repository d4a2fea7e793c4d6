// SPDX-License-Identifier: Apache-2.0
// Allocates through the standard library of Rust in the ways that programs do; prints the blocks' addresses.

use std::collections::HashMap;
use std::io::Read;

#[inline(never)]
fn make_order(lines: &[u8]) -> Vec<u8> {
    lines.to_vec()
}

#[inline(never)]
fn make_name(number: u32) -> String {
    format!("order {} of {}", number, std::process::id())
}

#[inline(never)]
fn make_index(count: u64) -> HashMap<u64, u64> {
    (0..count).map(|key| (key, key * key)).collect()
}

#[inline(never)]
fn make_shared(value: u64) -> std::sync::Arc<[u64]> {
    std::iter::repeat(value).take(100).collect::<Vec<_>>().into()
}

fn main() {
    let order = make_order(&[7; 321]);
    let name = make_name(12);
    let index = make_index(300);
    let shared = make_shared(3);
    let first = index.keys().next().unwrap() as *const u64;
    println!("make_order {:p}", order.as_ptr());
    println!("make_name {:p}", name.as_ptr());
    println!("make_index {:p}", first);
    println!("make_shared {:p}", shared.as_ptr());
    println!("ready");
    std::io::stdin().read(&mut [0]).unwrap();
    drop((order, name, index, shared));
}
