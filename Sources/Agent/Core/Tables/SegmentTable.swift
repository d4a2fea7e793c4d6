// SPDX-License-Identifier: Apache-2.0
// SegmentTable: a section of the segment that is a table of entries of one size, and the two things
// that the agent does to such a table: it appends an entry, and it changes an entry.
//
// Invariants:
// - Nothing is written to an entry before the pages under it are backed by memory. Where the file
//   system is full, the table gets no new entry; the process never gets SIGBUS.
// - A new entry is complete before the section's `used` counts it. That store is a release, which
//   pairs with a reader's acquire of `used`.
// - An entry that readers may look at while it changes has a sequence lock: the entry's `sequence`
//   is odd from the beginning of a change to its end. A reader loads `sequence`, copies the entry,
//   loads `sequence` again, and believes the copy if both loads gave one even number.
// - A table and a sequence lock have one writer at a time: a thread that holds the agent's lock, or
//   the thread whose entry it is.

import AgentMachine
import SharedLayout

struct SegmentTable<Entry> {
  let section: UnsafeMutablePointer<allocs_section>
  /// Where the section is mapped.
  let entries: UnsafeMutablePointer<Entry>

  @inline(__always)
  init(_ header: UnsafeMutablePointer<allocs_header>, _ id: allocs_section_id) {
    section = Segment.section(header, id)
    entries = Segment.start(header, id).assumingMemoryBound(to: Entry.self)
  }

  /// How many entries readers are shown.
  @inline(__always)
  var count: Int { Int(section.pointee.used) }

  /// How many entries the section has room for.
  @inline(__always)
  var capacity: Int { Int(section.pointee.capacity) }

  @inline(__always)
  subscript(index: Int) -> UnsafeMutablePointer<Entry> { entries + index }

  /// Appends an entry of zeros, and gives its index. For tables in which such an entry means
  /// nothing yet: it is written under its sequence lock. Nil if the table is full or there is no
  /// memory.
  func append() -> Int? {
    guard let index = reserve() else { return nil }
    publish(index + 1)
    return index
  }

  /// The index of the next entry, which is backed by memory now. The caller writes the entry, and
  /// then publishes it. Nil if the table is full or there is no memory.
  func reserve() -> Int? {
    let index = count
    return index < capacity && back(index) ? index : nil
  }

  /// Backs entry `index` with memory; all entries before it have been backed already. The entry
  /// before shares its last page with this one, unless this one begins a page. So only
  /// the pages that begin inside this entry, or with it, may have no memory yet.
  func back(_ index: Int) -> Bool {
    let pageSize = Int(ALLOCS_PAGE_SIZE)
    let start = index * MemoryLayout<Entry>.stride
    let end = start + MemoryLayout<Entry>.stride
    let firstPage = (start + pageSize - 1) / pageSize * pageSize
    guard firstPage < end else { return true }
    let lastPage = (end - 1) / pageSize * pageSize
    return System.commit(
      UnsafeMutableRawPointer(entries) + firstPage, UInt64(lastPage + pageSize - firstPage))
  }

  /// Shows readers the entries below `count`. They are complete.
  @inline(__always)
  func publish(_ count: Int) { allocs_store_release_u64(&section.pointee.used, UInt64(count)) }
}

// MARK: the sequence lock

/// An entry that changes while readers look at it.
protocol SequenceLocked {
  var sequence: UInt32 { get set }
  /// The word itself: a store to it has to be an atomic one.
  static func sequence(of entry: UnsafeMutablePointer<Self>) -> UnsafeMutablePointer<UInt32>
}

extension allocs_thread: SequenceLocked {
  @inline(__always)
  static func sequence(of entry: UnsafeMutablePointer<Self>) -> UnsafeMutablePointer<UInt32> {
    withUnsafeMutablePointer(to: &entry.pointee.sequence) { $0 }
  }
}
extension allocs_mapping: SequenceLocked {
  @inline(__always)
  static func sequence(of entry: UnsafeMutablePointer<Self>) -> UnsafeMutablePointer<UInt32> {
    withUnsafeMutablePointer(to: &entry.pointee.sequence) { $0 }
  }
}
/// The lock of a module's file is also the lock of the module's entry, which has the same index.
extension allocs_module_file: SequenceLocked {
  @inline(__always)
  static func sequence(of entry: UnsafeMutablePointer<Self>) -> UnsafeMutablePointer<UInt32> {
    withUnsafeMutablePointer(to: &entry.pointee.sequence) { $0 }
  }
}

extension UnsafeMutablePointer where Pointee: SequenceLocked {
  /// Changes the entry under its sequence lock.
  @inline(__always)
  func change(_ body: (Self) -> Void) {
    let word = Pointee.sequence(of: self)
    let sequence = word.pointee
    allocs_store_relaxed_u32(word, sequence &+ 1)
    allocs_fence_release()
    body(self)
    allocs_store_release_u32(word, sequence &+ 2)
  }

  /// Makes the entry what `draft` is, under its sequence lock. The draft's own `sequence` counts
  /// for nothing.
  @inline(__always)
  func replace(with draft: Pointee) { change { $0.write(draft) } }

  /// Makes the entry what `draft` is, all but its `sequence`. For the body of a `change`.
  @inline(__always)
  func write(_ draft: Pointee) {
    var draft = draft
    draft.sequence = pointee.sequence
    pointee = draft
  }

  /// Makes an odd sequence even: a signal handler stopped the thread in the middle of the change
  /// that it began, and the thread is gone in this child.
  func releaseAbandonedLock() { pointee.sequence += pointee.sequence & 1 }
}
