// SPDX-License-Identifier: Apache-2.0
// Windows of a segment's large sections (arenas, nested arenas, event rings): a segment that takes
// some kilobytes of memory claims half a terabyte of address space, or five where rings are large.
// So of these sections only pieces in which somebody reads are mapped.
//
// - A window holds a power of two of entries, about 1 GiB of the file at most, or one entry.
// - A window is mapped when its first entry is read, and stays until the segment goes. The hot path
//   is one load of the window's address more than with one mapping.
// - A window that can't be mapped is noted (`failure`): the segment then says that answers may be
//   wrong, as it does for a page that is missing.

import Glibc
import MappingGuard
import SharedLayout
import Synchronization

/// All windows of one file. Thread-safe. Belongs to a `MappedFile`, which closes it.
final class FileWindows: @unchecked Sendable {
  private let descriptor: Int32
  private let whole: OpaquePointer
  private let mapped = Mutex<[Window]>([])
  /// The tables that this object has made; they are freed with it.
  private let tables = Mutex<[Table]>([])
  private let firstFailure = Atomic<Int32>(0)

  private struct Window: @unchecked Sendable {
    let start: UnsafeMutableRawPointer
    let length: Int
    /// Where it begins, in bytes from the file's start.
    let offset: Int
    let entry: OpaquePointer
  }
  private struct Table: @unchecked Sendable {
    let places: UnsafeMutablePointer<UInt64>
  }

  /// `descriptor` stays open until `close`; `whole`: the guard of the mapping of the file's start.
  init(descriptor: Int32, whole: OpaquePointer) {
    self.descriptor = descriptor
    self.whole = whole
  }

  /// Unmaps all windows. Nobody may read in them any more.
  func close() {
    for window in mapped.withLock({ $0 }) {
      mapping_guard_remove(window.entry)
      munmap(window.start, window.length)
    }
    mapped.withLock { $0.removeAll() }
    for table in tables.withLock({ $0 }) { table.places.deallocate() }
    tables.withLock { $0.removeAll() }
  }

  /// The error number with which a window could not be mapped first; 0 if all could be.
  var failure: Int32 { firstFailure.load(ordering: .relaxed) }

  /// Room for the addresses of `count` windows, all 0.
  fileprivate func makeTable(_ count: Int) -> UnsafeMutablePointer<UInt64> {
    let places = UnsafeMutablePointer<UInt64>.allocate(capacity: max(count, 1))
    places.initialize(repeating: 0, count: max(count, 1))  // bounded: a section's entries, of which there are 2^21
    tables.withLock { $0.append(Table(places: places)) }
    return places
  }

  /// Maps `length` bytes from `offset` on, unless another thread just did, and stores their address
  /// in `place`. Returns the address; nil, and notes the failure, if they can't be mapped.
  @inline(never)
  fileprivate func map(offset: Int, length: Int, _ place: UnsafeMutablePointer<UInt64>) -> UInt? {
    mapped.withLock { windows in
      let present = allocs_load_acquire_u64(place)
      if present != 0 { return UInt(truncatingIfNeeded: present) }
      let start = mmap(
        nil, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, descriptor, off_t(truncatingIfNeeded: offset))
      guard let start, start != MAP_FAILED else {
        note(errno)
        return nil
      }
      guard let entry = mapping_guard_add_part(start, length, false, whole) else {
        munmap(start, length)
        note(ENOMEM)
        return nil
      }
      windows.append(Window(start: start, length: length, offset: offset, entry: entry))
      // Pairs with the load in `WindowedSection.start`.
      allocs_store_release_u64(place, UInt64(truncatingIfNeeded: UInt(bitPattern: start)))
      return UInt(bitPattern: start)
    }
  }

  private func note(_ code: Int32) {
    _ = firstFailure.compareExchange(expected: 0, desired: code, ordering: .relaxed)
  }

  /// Where a place in a window lies, in bytes from the file's start; nil if it lies in none.
  func fileOffset(of place: UnsafeRawPointer) -> Int? {
    mapped.withLock { windows in
      for window in windows {
        let distance = place - UnsafeRawPointer(window.start)  // bounded: addresses are below 2^57
        if distance >= 0, distance < window.length { return window.offset &+ distance }
      }
      return nil
    }
  }

  /// The first byte of the file at or above `offset` that is in no hole, to the page; nil if there
  /// is none any more. One system call.
  func data(from offset: Int) -> Int? {
    let seekData: Int32 = 3  // lseek(2); the overlay lacks it
    let found = lseek(descriptor, off_t(truncatingIfNeeded: offset), seekData)
    return found < 0 ? nil : found
  }
}

/// A section of a segment of which windows are mapped. A value: it may be used for as long as its
/// segment.
struct WindowedSection: @unchecked Sendable {
  /// Entries; 0 if the segment does not have the section.
  let capacity: Int
  /// Bytes of an entry.
  let stride: Int
  /// Bytes from the file's start.
  let offset: Int
  private let places: UnsafeMutablePointer<UInt64>
  /// The logarithm of the entries of a window.
  private let shift: Int
  /// The segment's mapping keeps it. A reference that is counted would cost a look-up two atomic
  /// operations for each copy.
  private let windows: Unmanaged<FileWindows>

  private static let windowBytes = 1 << 30

  /// `place`: checked, so that each entry lies in the file; `stride`: above 0.
  init(_ place: SectionPlace, stride: Int, in windows: FileWindows) {
    var shift = 0
    while shift < 30, stride &<< (shift &+ 1) <= Self.windowBytes { shift &+= 1 }
    capacity = place.capacity
    self.stride = stride
    offset = place.offset
    self.shift = shift
    self.windows = Unmanaged.passUnretained(windows)
    // bounded: no section has more entries than its row of allocs_section.h
    places = windows.makeTable((capacity + 1 << shift - 1) >> shift)
  }

  /// The start of an entry; nil if `index` is no entry's, or the entry can't be mapped.
  @inline(__always)
  func start(ofEntry index: Int) -> UnsafeRawPointer? {
    guard index >= 0, index < capacity else { return nil }
    // Pairs with the release in `map`. The addresses of windows that are mapped don't change.
    // bounded: the index is below the section's capacity
    let window = UInt(truncatingIfNeeded: allocs_load_acquire_u64(places + index >> shift))
    guard window != 0 else { return mapped(index) }
    return UnsafeRawPointer(bitPattern: window &+ UInt(bitPattern: (index & (1 &<< shift &- 1)) &* stride))
  }

  /// As `start(ofEntry:)`, with the entry's place in the file.
  @inline(__always)
  func place(ofEntry index: Int) -> ArenaPlace? {
    guard let start = start(ofEntry: index) else { return nil }
    return ArenaPlace(start: start, windows: windows)
  }

  @inline(never)
  private func mapped(_ index: Int) -> UnsafeRawPointer? {
    // bounded: places of the section lie in the file, below 2^47
    let first = (index >> shift) << shift
    let count = min(1 << shift, capacity - first)
    let window = windows._withUnsafeGuaranteedRef {
      $0.map(offset: offset + first * stride, length: count * stride, places + index >> shift)
    }
    return window.flatMap { UnsafeRawPointer(bitPattern: $0 + UInt(bitPattern: (index - first) * stride)) }
  }
}
