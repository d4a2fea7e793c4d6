// SPDX-License-Identifier: Apache-2.0
// The entry point of the reader: a segment file, mapped read-only.
//
// Threat: the file belongs to another process, which may be hostile, may be dying, and changes any
// word of it at any moment, and the file's length. Therefore:
// - A number that decides where memory is read is copied first, the copy is checked, and the copy
//   is used. The header is checked once, from a copy; afterwards only numbers that can't lead
//   outside a section's checked bounds are taken from it.
// - Shared words are read through the accessors of allocs_atomic.h; text is copied before it is
//   decoded.
// - No chain in the segment is followed without a bound on its length.
// - A page that vanished is replaced by zeros (MappingGuard), and the segment is broken from then
//   on: a caller that acts on answers calls `checkIntact()` after asking.
// - Only memory that was written is read, because reading a hole of a tmpfs file through a mapping
//   allocates the page.

import Bounds
@_exported import SegmentFiles
import SharedLayout
import SystemAccess

/// The index of a process: a segment file, mapped read-only, for as long as this value lives.
///
/// Every read may be made from any thread, while the process runs or after it ended. Nothing that
/// stands in the file makes a read trap or leave the mapping; a damaged file gives wrong answers,
/// or none. After answers on which something depends, call `checkIntact()`.
public struct Segment: ~Copyable, @unchecked Sendable {
  /// The path that the segment was opened at.
  public let path: String
  /// The process that it is of.
  public let process: ProcessIdentity
  private let file: MappedFile
  let geometry: Geometry
  let regions: SummaryBits
  let directory: UnsafePointer<UInt32>
  let arenas: WindowedSection
  let nestedArenas: WindowedSection
  let rings: WindowedSection
  /// The mapped header; its fields that change are read through the accessors of allocs_atomic.h.
  let header: UnsafePointer<allocs_header>
  private let sections: UnsafePointer<allocs_section>

  /// Opens a segment, checks its header against the file, and maps it.
  ///
  /// Throws `.noSuchFile` or `.notPermitted`; `.notASegment`, `.halfWritten` or `.truncated` for a
  /// file that is none, not yet one, or no longer one, or whose name, header, owner and process
  /// don't belong together (ProcessIdentity); `.otherVersion` for a layout version that this
  /// build does not read; `.system` if the address space or memory is short.
  public init(path: String) throws(Complaint) {
    let file = try OpenFile(path: path)
    let geometry = try Geometry(of: file, path: path)
    let process = try ProcessIdentity(of: file, path: path)
    let mapped = try MappedFile(file, length: geometry.sections.tablesEnd, path: path)
    // bounded: the sections lie in the file, whose size is below 2^47
    let start = mapped.start
    let words = (start + geometry.sections[ALLOCS_SECTION_REGION_BITS].offset).assumingMemoryBound(to: UInt64.self)
    self.path = path
    self.process = process
    self.geometry = geometry
    self.header = start.assumingMemoryBound(to: allocs_header.self)
    self.sections = (start + MemoryLayout<allocs_header>.offset(of: \.sections)!).assumingMemoryBound(
      to: allocs_section.self)
    self.regions = SummaryBits(
      level2: (start + MemoryLayout<allocs_header>.offset(of: \.region_level2)!).assumingMemoryBound(to: UInt64.self),
      level1: words, level0: words + Layout.regionLevel1Words, wordCount: Layout.regionLevel0Words)
    self.directory = (start + geometry.sections[ALLOCS_SECTION_DIRECTORY].offset).assumingMemoryBound(to: UInt32.self)
    self.arenas = WindowedSection(
      geometry.sections[ALLOCS_SECTION_ARENAS], stride: Layout.arenaStride, in: mapped.windows)
    self.nestedArenas = WindowedSection(
      geometry.sections[ALLOCS_SECTION_NESTED], stride: Layout.nestedStride, in: mapped.windows)
    self.rings = WindowedSection(
      geometry.sections[ALLOCS_SECTION_RINGS], stride: geometry.sections.ringStride, in: mapped.windows)
    self.file = mapped
  }

  // MARK: whether to believe it

  /// Whether a page of the file was missing when it was read, or a part of it could not be mapped:
  /// then answers since that moment may be wrong; `checkIntact()` says which. No system call.
  public var isBroken: Bool { file.isBroken }

  /// Throws `.broken` if the file was cut or overwritten since it was opened: the answers so far
  /// may then be wrong. One system call.
  public func checkIntact() throws(Complaint) {
    // The size first: reading the header of a file that was cut to nothing would itself break the
    // mapping.
    if let size = file.file.presentSize, size < geometry.fileSize {
      throw .broken(path: path, why: "the file was cut to \(size) of \(geometry.fileSize) bytes while it was read")
    }
    if file.windows.failure != 0 {
      throw .system(path: path, operation: "map a part of", why: systemWords(file.windows.failure))
    }
    if file.isBroken { throw .broken(path: path, why: "a page of the file was missing when it was read") }
    let magic = UnsafeRawPointer(header).assumingMemoryBound(to: UInt64.self)
    if allocs_load_acquire_u64(magic) != ALLOCS_MAGIC || file.isBroken {
      throw .broken(path: path, why: "the file was overwritten while it was read")
    }
  }

  // MARK: facts of the header

  /// The id of the process, in the pid namespace of the process.
  public var processID: Int32 { geometry.processID }
  /// When the process started: clock ticks since boot, field 22 of /proc/PID/stat.
  public var startTime: UInt64 { geometry.startTime }
  /// The id of the parent whose index this was up to the fork that made this process
  /// (ALLOCS_FOLLOW); nil if the process began with an index of its own.
  public var forkedFrom: Int32? { geometry.forkedFrom }
  /// How many programs with an index the process ran before this one, and left by exec.
  public var programsBefore: UInt32 { geometry.programsBefore }
  /// The user that the process ran as when it started, by the process's own word. To decide who may
  /// read, use `ownerID`.
  public var userID: UInt32 { geometry.userID }
  /// The user that owns the file, by the kernel's word.
  public var ownerID: UInt32 { file.file.ownerID }
  /// Program name and arguments, by their bytes (ByteText): the first 1,024 bytes of them.
  public var command: [ForeignText] { geometry.command }
  /// Whether contexts hold whole call stacks; else one frame, the call site.
  public var hasFullStacks: Bool { geometry.hasFullStacks }

  /// The states of a process.
  public enum State: Hashable, Sendable {
    /// The agent is still setting up.
    case starting
    /// The process is indexed, as far as the segment knows: after a crash or a kill it says so
    /// still.
    case live
    /// The process ran its exit handlers.
    case exited
  }
  /// The state that the agent last noted. One load.
  public var state: State {
    switch allocs_load_acquire_u32(headerField(\.state, as: UInt32.self)) {
    case ALLOCS_STATE_LIVE.rawValue: .live
    case ALLOCS_STATE_EXITED.rawValue: .exited
    default: .starting
    }
  }

  /// Whether the process still runs: by /proc, or by its lock of the file where /proc does not show
  /// it. A few system calls.
  public var isProcessAlive: Bool { process.isAlive || file.file.isLocked }

  /// Whether the segment's path still leads to this file. If not, the process, if it runs, has
  /// become another program (exec), whose index is there; or someone removed the file. One system
  /// call.
  public var isAtItsPath: Bool { file.file.isAt(path) }

  /// Whether another file is at the segment's path: the index of the program that the process has
  /// become. One system call.
  public var isReplaced: Bool { FileNumber(path: path).map { $0 != identity } ?? false }

  /// Whether the process still writes to this segment: false after its exec, and after its end. A
  /// few system calls.
  public var isInUse: Bool {
    geometry.isLockedByProcess ? file.file.isLocked : isProcessAlive && isAtItsPath
  }

  /// The segment's file, by its number and not by its name.
  package var identity: FileNumber { file.file.identity }

  /// Bytes from the file's start that the agent maps in one piece: all bytes before the arenas.
  package var fixedBytes: UInt64 { UInt64(clamping: geometry.sections[ALLOCS_SECTION_ARENAS].offset) }

  /// Whether the process holds its lock of the file, wherever it runs. One system call.
  package var isLockedByProcess: Bool { file.file.isLocked }

  /// When the process started, as /proc shows it to this reader. For a process in another time
  /// namespace the number differs from the segment's.
  package var startTimeHere: UInt64 { process.startTimeHere }

  /// The offsets that the process's time namespace adds to the machine's clocks. Where the segment
  /// does not have them, the process is asked.
  package var clockOffsets: ClockOffsets { process.clockOffsets }

  // MARK: access to tables

  func headerField<Root, Value>(
    _ field: KeyPath<allocs_header, Root>, as type: Value.Type
  ) -> UnsafePointer<Value> {
    // bounded: the field lies in the header
    (UnsafeRawPointer(header) + MemoryLayout<allocs_header>.offset(of: field)!).assumingMemoryBound(to: type)
  }

  /// The entries of a table: of any section but the arenas and the rings, which lie in windows.
  func entries<Entry>(_ id: allocs_section_id, as type: Entry.Type) -> UnsafePointer<Entry> {
    // bounded: the sections lie in the file, whose size is below 2^47
    (UnsafeRawPointer(header) + geometry.sections[id].offset).assumingMemoryBound(to: type)
  }

  /// Entry `index` of a table. The caller has compared the index with the table's `used`.
  @inline(__always)
  func entry<Entry>(_ index: Int, of id: allocs_section_id, as type: Entry.Type) -> UnsafePointer<Entry> {
    entries(id, as: type) + index  // bounded: the index is below the section's capacity
  }

  /// The results of reading each entry of a table that is in use, as far as the budget goes;
  /// entries that contradict themselves are left out.
  func read<Result>(_ id: allocs_section_id, _ result: (_ index: Int) -> Result?) -> [Result] {
    var results: [Result] = []
    var meter = BudgetMeter(interval: 64)
    var index = 0
    while index < used(id), meter.goesOn() {
      if let result = result(index) { results.append(result) }
      index &+= 1
    }
    return results
  }

  /// `used` of a section, as it stands: may exceed the capacity.
  func rawUsed(_ id: allocs_section_id) -> UInt64 {
    // Pairs with the writer's release, which it makes after the entries below `used` are complete.
    // bounded: sections have numbers below ALLOCS_SECTION_SPACE
    let section = UnsafeRawPointer(sections + Int(id.rawValue))
    let used = section + MemoryLayout<allocs_section>.offset(of: \.used)!
    return allocs_load_acquire_u64(used.assumingMemoryBound(to: UInt64.self))
  }

  /// The entries of a section that may be read.
  func used(_ id: allocs_section_id) -> Int {
    Foreign(rawUsed(id)).int(upTo: geometry.sections[id].capacity) ?? geometry.sections[id].capacity
  }
}

/// A copy of an entry that its writer changes under a sequence lock (allocs_thread.h), all of one
/// moment; nil if the writer died while it changed the entry. The first word of the entry is its
/// `sequence`.
func copySequenced<Entry: BitwiseCopyable>(of entry: UnsafePointer<Entry>, into empty: Entry) -> Entry? {
  let sequence = UnsafeRawPointer(entry).assumingMemoryBound(to: UInt32.self)
  // A change takes less than a microsecond, unless its thread is stopped or died in the middle.
  for _ in 0..<10_000 {
    // Pairs with the writer's release of an even number.
    let before = allocs_load_acquire_u32(sequence)
    guard before & 1 == 0 else { continue }
    var copy = empty
    copyWords(of: entry, into: &copy)
    // Pairs with the writer's fence after it stored an odd number.
    allocs_fence_acquire()
    if allocs_load_relaxed_u32(sequence) == before { return copy }
  }
  return nil
}

/// Copies an entry word by word. Each word is as it was at one moment; the words need not belong
/// together.
func copyWords<Entry: BitwiseCopyable>(of entry: UnsafePointer<Entry>, into copy: inout Entry) {
  let source = UnsafeRawPointer(entry).assumingMemoryBound(to: UInt64.self)
  withUnsafeMutableBytes(of: &copy) { bytes in
    // bounded: the index is in the entry's bytes
    for index in 0..<bytes.count / 8 {
      bytes.storeBytes(of: allocs_load_relaxed_u64(source + index), toByteOffset: index * 8, as: UInt64.self)
    }
  }
}
