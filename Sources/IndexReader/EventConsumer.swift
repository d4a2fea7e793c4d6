// SPDX-License-Identifier: Apache-2.0
// A consumer of a process's events: its presence in the control file (allocs_control.h) turns the
// events on, and the last consumer that leaves turns them off.
//
// Threat: the file belongs to another process, which may be hostile and changes any word at any
// moment. No number in it decides which memory is touched. A file that is cut short under the
// mapping becomes zeros (MappingGuard), and then this consumer looks as if it had been expelled.
// The owner of the directory can give the control file of another process this name: so the file is
// opened in the directory of the segment, and must be the owner's, without a second name, and name
// the same process.
//
// bounded: numbers of consumers and rings are below 2^12, whatever the file says, and offsets of
// positions below the control file's size

import ByteText
import Glibc
import MappingGuard
import SegmentFiles
import SharedLayout
import SystemAccess

/// An entry in the control file of a process, given back when this value goes. One thread at a time
/// may use it.
///
/// While any consumer is attached, the process records events. The records are read from the
/// segment, with `Segment.read(_:into:)`.
public struct EventConsumer: ~Copyable, @unchecked Sendable {
  /// Whether the target waits for this consumer.
  public enum Policy: Hashable, Sendable {
    /// The target never waits: records that are not read in time are overwritten.
    case overwrite
    /// A thread of the target waits before it overwrites a record that this consumer has not taken
    /// (`setPosition(_:ofRing:in:)`), at most so many nanoseconds; at most 10^10. With 0 it waits
    /// as long as the target was told at its start (ALLOCS_EVENTS_WAIT, else 100 ms).
    case lossless(waitNanoseconds: UInt64)
  }

  /// The path of the control file.
  public let path: String
  private let start: UnsafeMutableRawPointer
  private let entry: OpaquePointer
  private let number: UInt32
  private let token: UInt64

  /// The path of the control file of the process whose segment is at `path`.
  public static func controlPath(ofSegment path: String) -> String {
    path.hasSuffix(".seg") ? String(path.dropLast(3)) + "ctl" : path + ".ctl"
  }

  /// Attaches to the process of `segment`, and gives a cursor for each ring that there is. Rings
  /// that come later are to be read from position 0. With the lossless policy no record from the
  /// cursors on is lost, unless it is counted as overrun (`Segment.overrun(inRing:)`).
  ///
  /// Throws `.noSuchFile` or `.notPermitted` for the control file, `.occupied` if the process has
  /// as many consumers as there can be, `.otherVersion` if the control file is of another version,
  /// and `.system` if its file system is full.
  public init(
    to segment: borrowing Segment, policy: Policy = .overwrite, cursors: inout [RingCursor]
  ) throws(Complaint) {
    let path = Self.controlPath(ofSegment: segment.path)
    let start = try Self.map(path, segment.process)
    guard let guardEntry = mapping_guard_add(start, Int(ALLOCS_CONTROL_SIZE), true) else {
      munmap(start, Int(ALLOCS_CONTROL_SIZE))
      throw .system(path: path, operation: "guard the mapping of", why: systemWords(ENOMEM))
    }
    func refuse(_ error: Complaint) -> Complaint {
      mapping_guard_remove(guardEntry)
      munmap(start, Int(ALLOCS_CONTROL_SIZE))
      return error
    }
    let token = UInt64(UInt32(bitPattern: getpid())) << 32 | UInt64(UInt32.random(in: 1 ... .max))
    var number: UInt32 = 0
    while !allocs_compare_exchange_u64(Self.word(start, number, \.owner), 0, token) {
      number += 1
      guard number < ALLOCS_CONSUMER_COUNT else {
        throw refuse(.occupied(path: path, consumers: Int(ALLOCS_CONSUMER_COUNT)))
      }
    }
    // Where the file system is full, touching a hole would be a signal.
    let positions = start + Int(allocs_control_position_offset(number, 0))
    let populateWrite: Int32 = 23
    guard madvise(positions, Int(ALLOCS_RING_COUNT) * 8, populateWrite) == 0 else {
      let why = systemWords(errno)
      allocs_store_release_u64(Self.word(start, number, \.owner), 0)
      throw refuse(.system(path: path, operation: "get memory for", why: why))
    }
    self.path = path
    self.start = start
    self.entry = guardEntry
    self.number = number
    self.token = token
    cursors = (0..<segment.ringCount).map { RingCursor(ring: $0, position: segment.written(toRing: $0)) }
    let words = positions.assumingMemoryBound(to: UInt64.self)
    for ring in 0..<Int(ALLOCS_RING_COUNT) {
      allocs_store_relaxed_u64(words + ring, ring < cursors.count ? cursors[ring].position : 0)
    }
    allocs_store_relaxed_u64(Self.word(start, number, \.beat), 0)
    let consumer = Self.consumer(start, number)
    switch policy {
    case .overwrite: consumer.pointee.policy = ALLOCS_POLICY_OVERWRITE.rawValue
    case .lossless(let nanoseconds):
      consumer.pointee.policy = ALLOCS_POLICY_LOSSLESS.rawValue
      consumer.pointee.wait_ns = nanoseconds
    }
    consumer.pointee.pid = UInt32(bitPattern: getpid())
    // Pairs with the agent's acquire: an agent that sees the entry ready sees all of it.
    allocs_store_release_u32(Self.word(start, number, \.ready), UInt32(truncatingIfNeeded: token))
    _ = allocs_fetch_add_u32(Self.control(start, \.changes), 1)
    Self.turnOn(start)
  }

  deinit {
    if isAttached, allocs_compare_exchange_u64(Self.word(start, number, \.owner), token, 0) {
      _ = allocs_fetch_add_u32(Self.control(start, \.changes), 1)
      Self.turnOffIfUnwanted(start)
    }
    mapping_guard_remove(entry)
    munmap(start, Int(ALLOCS_CONTROL_SIZE))
  }

  // MARK: staying

  /// Whether the process of `segment` records events, or did when it ended. False where its control
  /// file is gone. A few system calls.
  public static func areEventsOn(of segment: borrowing Segment) -> Bool {
    guard let file = try? open(controlPath(ofSegment: segment.path), segment.process, O_RDONLY) else { return false }
    return header(of: file).map { isFor(segment.process, $0) && $0.events != 0 } ?? false
  }

  /// Whether this consumer still has its entry. If not, the target took it for dead, as
  /// `keepAlive()` was not called for two seconds, or the file is broken: then attach again. One
  /// load.
  public var isAttached: Bool {
    !mapping_guard_is_broken(entry) && allocs_load_acquire_u64(Self.word(start, number, \.owner)) == token
  }

  /// Shows the target that this consumer lives; to be called at least every half second. Returns
  /// `isAttached`.
  public func keepAlive() -> Bool {
    guard isAttached else { return false }
    _ = allocs_fetch_add_u64(Self.word(start, number, \.beat), 1)
    return true
  }

  /// Says that the records of a ring below `position` are taken. Wakes the ring's thread if it
  /// waits. A ring that can't be, and a consumer that is not attached, are passed over.
  public func setPosition(_ position: UInt64, ofRing ring: Int, in segment: borrowing Segment) {
    guard ring >= 0, ring < Int(ALLOCS_RING_COUNT), isAttached else { return }
    let word = (start + Int(allocs_control_position_offset(number, UInt32(ring)))).assumingMemoryBound(to: UInt64.self)
    allocs_store_release_u64(word, position)
    // The thread sees the new position before it sleeps, or else the load below sees that the
    // thread is about to sleep.
    allocs_fence_full()
    if segment.isWaiting(ring) { allocs_wake_writer(word) }
  }

  // MARK: the switch

  /// Says that the program's recorder (ALLOCS_RECORDER) is attached: from now on events stay on
  /// only while there are consumers. For the recorder that started the program.
  public func takeOver(_ segment: borrowing Segment) { Self.takeOver(start, segment) }

  /// For a recorder that can't record the program that it started: events go off, unless there are
  /// consumers. Nothing happens where the control file can't be opened.
  public static func giveUp(_ segment: borrowing Segment) {
    let path = controlPath(ofSegment: segment.path)
    guard let start = try? map(path, segment.process) else { return }
    defer { munmap(start, Int(ALLOCS_CONTROL_SIZE)) }
    guard let entry = mapping_guard_add(start, Int(ALLOCS_CONTROL_SIZE), true) else { return }
    defer { mapping_guard_remove(entry) }
    takeOver(start, segment)
    turnOffIfUnwanted(start)
  }

  private static func takeOver(_ start: UnsafeMutableRawPointer, _ segment: borrowing Segment) {
    // After an exec, the control file at the path is the new program's, and waits for a recorder of
    // its own. It is made after that program's segment.
    guard segment.isAtItsPath else { return }
    _ = allocs_compare_exchange_u32(
      control(start, \.always), ALLOCS_UNTIL_RECORDED.rawValue, ALLOCS_WHILE_WANTED.rawValue)
  }

  /// Turns events on: a new period of recording, unless one is under way.
  private static func turnOn(_ start: UnsafeMutableRawPointer) {
    let events = control(start, \.events)
    guard allocs_load_acquire_u32(events) == 0 else { return }
    var period: UInt32 = 0
    while period == 0 { period = allocs_fetch_add_u32(control(start, \.periods), 1) &+ 1 }
    _ = allocs_compare_exchange_u32(events, 0, period)
  }

  private static func turnOffIfUnwanted(_ start: UnsafeMutableRawPointer) {
    guard allocs_load_acquire_u32(control(start, \.always)) == 0, !isWanted(start) else { return }
    let events = control(start, \.events)
    let period = allocs_load_acquire_u32(events)
    guard period != 0, allocs_compare_exchange_u32(events, period, 0) else { return }
    // A consumer that came meanwhile may have found events on. This thread sees that consumer now,
    // or else the consumer sees that events are off.
    allocs_fence_full()
    if isWanted(start) { turnOn(start) }
  }

  private static func isWanted(_ start: UnsafeMutableRawPointer) -> Bool {
    (0..<ALLOCS_CONSUMER_COUNT).contains { allocs_load_acquire_u64(word(start, $0, \.owner)) != 0 }
  }

  // MARK: the mapping

  /// Opens the control file at `path`, in the directory in which the segment was opened.
  private static func open(
    _ path: String, _ process: ProcessIdentity, _ flags: Int32
  ) throws(Complaint) -> OpenedFile {
    let (parent, name) = OpenFile.split(path)
    let directory = try CheckedDirectory.ofSegment(path, parent)
    guard directory.identity == process.directory else {
      throw .notASegment(path: path, why: "its directory is another one than that of the segment")
    }
    let file: OpenedFile
    do throws(FileRefusal) {
      file = try OpenedFile(in: directory.descriptor, name, flags)
    } catch {
      throw error.complaint(path)
    }
    let owner = file.status.st_uid
    // Else a user who may ask about the segment would switch events of another user's process.
    guard owner == process.ownerID else {
      throw .notASegment(path: path, why: "it belongs to user \(owner), and its segment to user \(process.ownerID)")
    }
    return file
  }

  private static func header(of file: borrowing OpenedFile) -> allocs_control? {
    var header = allocs_control()
    let count = withUnsafeMutableBytes(of: &header) { pread(file.descriptor, $0.baseAddress, $0.count, 0) }
    return count == MemoryLayout<allocs_control>.size && header.magic == ALLOCS_CONTROL_MAGIC ? header : nil
  }

  private static func isFor(_ process: ProcessIdentity, _ header: allocs_control) -> Bool {
    header.start_time == process.startTime && Int32(exactly: header.pid) == process.processID
  }

  private static func map(_ path: String, _ process: ProcessIdentity) throws(Complaint) -> UnsafeMutableRawPointer {
    let file = try open(path, process, O_RDWR)
    let size = Int(ALLOCS_CONTROL_SIZE)
    guard file.status.st_size >= size else {
      throw .truncated(path: path, why: "it has \(file.status.st_size) of \(size) bytes")
    }
    guard let header = header(of: file) else {
      throw .notASegment(path: path, why: "it does not begin with a control file's magic")
    }
    guard header.version == ALLOCS_CONTROL_VERSION else {
      throw .otherVersion(
        path: path, found: header.version, known: ALLOCS_CONTROL_VERSION...ALLOCS_CONTROL_VERSION)
    }
    guard isFor(process, header), Int(header.size) == size else {
      throw .notASegment(path: path, why: "it is another process's, or damaged")
    }
    let mapping = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.descriptor, 0)
    guard let mapping, mapping != MAP_FAILED else {
      throw .system(path: path, operation: "map", why: systemWords(errno))
    }
    return mapping
  }

  private static func consumer(
    _ start: UnsafeMutableRawPointer, _ number: UInt32
  ) -> UnsafeMutablePointer<allocs_consumer> {
    (start + MemoryLayout<allocs_control>.offset(of: \.consumers)!).assumingMemoryBound(to: allocs_consumer.self)
      + Int(number)
  }
  private static func word<Value>(
    _ start: UnsafeMutableRawPointer, _ number: UInt32, _ field: KeyPath<allocs_consumer, Value>
  ) -> UnsafeMutablePointer<Value> {
    (UnsafeMutableRawPointer(consumer(start, number)) + MemoryLayout<allocs_consumer>.offset(of: field)!)
      .assumingMemoryBound(to: Value.self)
  }
  private static func control<Value>(
    _ start: UnsafeMutableRawPointer, _ field: KeyPath<allocs_control, Value>
  ) -> UnsafeMutablePointer<Value> {
    (start + MemoryLayout<allocs_control>.offset(of: field)!).assumingMemoryBound(to: Value.self)
  }
}
