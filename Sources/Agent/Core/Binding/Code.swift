// SPDX-License-Identifier: Apache-2.0
// Code: changes instructions of the program, and makes memory for instructions.
//
// Invariants:
// - If a step fails, every byte, and the permissions of every page, are as they were. A page that
//   could be run can be run at every moment.
// - No thread is in the code that changes: the agent's constructor runs while there is one thread,
//   and later only code is changed that the program has not been given yet.
//
// The code is written through /proc/self/mem. That leaves a page's permissions alone, and works
// where a policy forbids memory that is written and then run (PR_SET_MDWE, a filter of system
// calls). Where that file cannot be used, the pages are made writable in addition, and then what
// they were before: a policy against that refuses the first step.

import AgentMachine
import SharedLayout

enum Code {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  /// Bytes of a jump, the most that is written at once.
  static let limit = 5

  typealias Bytes = UnsafeMutablePointer<UInt8>

  // MARK: code that is there

  /// Writes `count` bytes over code. False, and nothing is changed, if that cannot be done.
  static func write(_ address: UInt64, _ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    writeThroughFile(address, bytes, count) || writeInPlace(address, bytes, count)
  }

  private static func writeThroughFile(_ address: UInt64, _ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    let path: StaticString = "/proc/self/mem"
    let file = System.open(
      UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readWrite)
    guard file >= 0 else { return false }
    defer { System.close(file) }
    guard let code = Bytes(bitPattern: UInt(address)) else { return false }
    // In an emulator, the kernel's addresses may be others than the program's: the file must have
    // the bytes that the program sees.
    var old = InlineArray<8, UInt8>(repeating: 0)
    let isSame = withUnsafeMutablePointer(to: &old) { old -> Bool in
      let old = UnsafeMutableRawPointer(old).assumingMemoryBound(to: UInt8.self)
      guard count <= 8, System.read(file, old, count, at: address) == count else { return false }
      for index in 0..<count where old[index] != code[index] { return false }
      return true
    }
    guard isSame else { return false }
    let written = System.writeAll(file, UnsafeMutableRawPointer(mutating: bytes), count, at: address)
    var isThere = written == count
    for index in 0..<count where allocs_load_byte(code + index) != bytes[index] { isThere = false }
    if isThere { return true }
    withUnsafeMutablePointer(to: &old) { _ = System.writeAll(file, $0, count, at: address) }
    return false
  }

  private static func writeInPlace(_ address: UInt64, _ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    let first = address & ~(pageSize - 1)
    let last = (address + UInt64(count) - 1) & ~(pageSize - 1)
    guard let code = Bytes(bitPattern: UInt(address)), let before = Process.protection(of: first),
      let beforeLast = first == last ? before : Process.protection(of: last)
    else { return false }
    let writable = 2
    guard System.protect(first, pageSize, flags: before | writable) else { return false }
    if first != last, !System.protect(last, pageSize, flags: beforeLast | writable) {
      _ = System.protect(first, pageSize, flags: before)
      return false
    }
    for index in 0..<count { code[index] = bytes[index] }
    // No policy refuses to take a permission away.
    _ = System.protect(first, pageSize, flags: before)
    if first != last { _ = System.protect(last, pageSize, flags: beforeLast) }
    return true
  }

  // MARK: new code

  /// Makes memory that was written executable. Where that is forbidden, other memory with the same
  /// bytes takes its place at the address. False if neither can be done; then the memory is
  /// unmapped.
  static func makeExecutable(_ start: Bytes, _ size: UInt64) -> Bool {
    let address = UInt64(UInt(bitPattern: start))
    if System.protect(address, size, flags: System.Access.execute.rawValue) { return true }
    let path: StaticString = "/proc/self/mem"
    let file = System.open(
      UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readWrite)
    let copy = System.map(size)
    if let copy { allocs_copy(copy, start, size) }
    System.unmap(start, size)
    var isDone = false
    if file >= 0, let copy, let again = System.map(at: address, size, System.Access.execute) {
      isDone =
        again == UnsafeMutableRawPointer(start) && System.writeAll(file, copy, Int(size), at: address) == Int(size)
      if !isDone { System.unmap(again, size) }
    }
    if let copy { System.unmap(copy, size) }
    if file >= 0 { System.close(file) }
    return isDone
  }
}
