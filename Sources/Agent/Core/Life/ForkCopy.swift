// SPDX-License-Identifier: Apache-2.0
// ForkCopy: gives a child of fork a segment of its own, with an exact copy of the index as of the
// fork (ALLOCS_FOLLOW=1).
//
//   parent, before   Close the gate. Make a file without a name, and write to it all parts of the
//                    segment that are backed by memory. Save the memory that the child will find
//                    wiped, in private memory: the child gets a copy of all private memory.
//   child            Map the file at the address of the parent's segment, so that all of the
//                    agent's pointers stay valid, also those in registers of a hook that was
//                    interrupted by fork. Restore the wiped memory. Mark the threads that fork did
//                    not copy as ended. Give the file its name.
//   parent, after    Open the gate.
//
// Invariants:
// - The file has no name until everything in it is right: nobody ever sees half a copy.
// - On any failure the child runs without an index, as if it were not followed, and a counter of
//   the parent's says so.
// - The parent makes nothing but system calls and stores: a signal handler may call fork.

import AgentMachine
import SharedLayout

enum ForkCopy {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private typealias Shared = UnsafeMutablePointer<allocs_shared>
  private typealias Header = UnsafeMutablePointer<allocs_header>
  /// The saved memory, with the descriptors of the copy and of its directory.
  private typealias Saved = UnsafeMutablePointer<allocs_saved_state>

  // MARK: the parent, before

  static func prepare() {
    let process = allocs_process()
    guard process.pointee.follows != 0, process.pointee.phase == ALLOCS_PHASE_READY.rawValue,
      let shared = process.pointee.shared, let header = shared.pointee.header
    else { return }
    if process.pointee.fork_gate_owner == System.threadID {
      // A signal handler forks while this thread forks. The agent follows none of the two children.
      process.pointee.forks_inside &+= 1
      return Gate.breakOpen()
    }
    // A thread without a block gets one, so that a fork of another thread need not wait for this
    // thread, which may be in a signal handler inside a hook.
    if allocs_registered_block() == nil, let thread = Start.enterNewThread() { allocs_leave(thread) }
    guard let own = allocs_registered_block(), own.pointee.entry != nil else {
      return refuse("its thread is not indexed", 0)
    }
    var result = Gate.Closing.busy
    // No program has so many threads that fork at once.
    for _ in 0..<64 where result == .busy {
      Gate.wait(own)
      result = Gate.close(shared)
    }
    guard result == .closed else { return refuse("its threads did not come to rest", 0) }
    guard let saved = makeSaved(shared) else {
      Gate.open(shared)
      return refuse("there is no memory", 0)
    }
    let error = fill(saved, shared, header, own)
    guard error >= 0 else {
      drop(saved)
      Gate.open(shared)
      return refuse("its segment cannot be made", error)
    }
    allocs_store_release_pointer(savedWord, UnsafeMutableRawPointer(saved))
  }

  private static func refuse(_ reason: StaticString, _ code: Int) {
    Index.count(ALLOCS_COUNTER_FORKS_UNFOLLOWED)
    say(reason, code)
  }

  private static func say(_ reason: StaticString, _ code: Int) {
    var line = Text()
    line.append(": a child of fork runs unindexed: ")
    line.append(reason)
    line.append(error: code)
    line.sayOnRequest()
  }

  private static func makeSaved(_ shared: Shared) -> Saved? {
    var count: UInt64 = 0
    Threads.forEach(shared) { _ in count += 1 }
    let bytes = UInt64(MemoryLayout<allocs_saved_state>.size) + count * UInt64(MemoryLayout<allocs_saved_thread>.stride)
    let size = (bytes + pageSize - 1) / pageSize * pageSize
    guard let memory = System.map(size) else { return nil }
    let saved = memory.assumingMemoryBound(to: allocs_saved_state.self)
    saved.pointee.file = -1
    saved.pointee.directory = -1
    saved.pointee.size = size
    return saved
  }

  private static func drop(_ saved: Saved) {
    if saved.pointee.file >= 0 { System.close(Int(saved.pointee.file)) }
    if saved.pointee.directory >= 0 { System.close(Int(saved.pointee.directory)) }
    System.unmap(UnsafeMutableRawPointer(saved), saved.pointee.size)
  }

  /// Makes the copy, and saves the memory that will be wiped. A negated error number if it cannot
  /// be done.
  private static func fill(_ saved: Saved, _ shared: Shared, _ header: Header, _ own: Thread) -> Int {
    typealias Flags = System.OpenFlags
    let fileTooLarge = -27  // EFBIG
    saved.pointee.directory = Int64(
      System.open(allocs_directory(), Flags.readOnly | Flags.directory | Flags.noFollow))
    // A process that runs as another user since its start may not write there any more.
    var place: UInt32 = 0
    while saved.pointee.directory < 0, allocs_process().pointee.names_directory == 0, !System.isFiltered,
      place < UInt32(ALLOCS_PLACE_COUNT.rawValue)
    {
      saved.pointee.directory = Int64(Directory.open(place))
      place += 1
    }
    guard saved.pointee.directory >= 0 else { return Int(saved.pointee.directory) }
    saved.pointee.file = Int64(System.openUnnamed(in: Int(saved.pointee.directory), mode: 0o600))
    let file = Int(saved.pointee.file)
    guard file >= 0 else { return file }
    // For a file beyond the limit, the kernel would send a signal.
    guard System.limit(.fileSize) >= header.pointee.file_size else { return fileTooLarge }
    let sized = System.truncate(file, header.pointee.file_size)
    guard sized >= 0 else { return sized }
    saved.pointee.monotonic_offset = header.pointee.monotonic_offset
    saved.pointee.shared = shared.pointee
    saved.pointee.own = own.pointee
    saved.pointee.own_block = own
    saveThreads(saved, shared)
    return copy(to: file, shared, header)
  }

  private static func saveThreads(_ saved: Saved, _ shared: Shared) {
    let threads = allocs_saved_threads(saved)
    var count = 0
    Threads.forEach(shared) { thread in
      threads[count] = allocs_saved_thread(
        block: thread, entry: thread.pointee.entry, slot: thread.pointee.slot, tid: thread.pointee.tid)
      count += 1
    }
    saved.pointee.thread_count = UInt64(count)
  }

  // MARK: the copy

  /// Writes all of the segment that is backed by memory, but for the rings of events: the child
  /// begins with none. A negated error number if it cannot be done. Reading a hole of the parent's
  /// segment makes it a page there; where there is no memory for that, the kernel reports an error.
  private static func copy(to file: Int, _ shared: Shared, _ header: Header) -> Int {
    var result = copy(to: file, header, 0, pageSize)
    for id in 0..<Int(ALLOCS_SECTION_SPACE) {
      let section = sections(header) + id
      guard result >= 0, section.pointee.capacity > 0 else { continue }
      switch UInt32(id) {
      case ALLOCS_SECTION_ARENAS.rawValue:
        result = copyArenas(to: file, AnchoredSection.arenas(shared, header), ArenaShape.self)
      case ALLOCS_SECTION_NESTED.rawValue:
        result = copyArenas(to: file, AnchoredSection.nestedArenas(shared, header), NestedShape.self)
      case ALLOCS_SECTION_REGION_BITS.rawValue:
        withUnsafeMutablePointer(to: &shared.pointee.region_pages) {
          result = copyPages(
            to: file, header, section, UnsafeMutableRawPointer($0), MemoryLayout.size(ofValue: $0.pointee))
        }
      case ALLOCS_SECTION_DIRECTORY.rawValue:
        withUnsafeMutablePointer(to: &shared.pointee.directory_pages) {
          result = copyPages(
            to: file, header, section, UnsafeMutableRawPointer($0), MemoryLayout.size(ofValue: $0.pointee))
        }
      case ALLOCS_SECTION_RINGS.rawValue:
        break
      default:
        let used = min(section.pointee.used, section.pointee.capacity) * section.pointee.entry_size
        result = copy(to: file, header, section.pointee.offset, (used + pageSize - 1) / pageSize * pageSize)
      }
    }
    return result
  }

  private static func sections(_ header: Header) -> UnsafeMutablePointer<allocs_section> {
    withUnsafeMutablePointer(to: &header.pointee.sections) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: allocs_section.self)
    }
  }

  /// Copies a part of the segment that is mapped in one piece with the header.
  private static func copy(to file: Int, _ header: Header, _ offset: UInt64, _ size: UInt64) -> Int {
    System.writeAll(file, UnsafeMutableRawPointer(header) + Int(offset), Int(size), at: offset)
  }

  /// Copies the pages of a section whose bits are set in `known`, which has `size` bytes.
  private static func copyPages(
    to file: Int, _ header: Header, _ section: UnsafeMutablePointer<allocs_section>, _ known: UnsafeMutableRawPointer,
    _ size: Int
  ) -> Int {
    let words = known.assumingMemoryBound(to: UInt64.self)
    for page in 0..<UInt64(size * 8) where words[Int(page / 64)] >> (page % 64) & 1 != 0 {
      let result = copy(to: file, header, section.pointee.offset + page * pageSize, pageSize)
      guard result >= 0 else { return result }
    }
    return 0
  }

  /// Writes the heads of the arenas, and their slot pages that are backed by memory, in as few
  /// writes as there are runs of such pages.
  private static func copyArenas<Shape: SlotArenaShape>(
    to file: Int, _ arenas: AnchoredSection, _ shape: Shape.Type
  ) -> Int {
    let pageSize = Int(pageSize)
    for number in 0..<arenas.count {
      guard let mapping = arenas.mappings[number] else { continue }
      let arena = SlotArena<Shape>(mapping)
      let start = UnsafeMutableRawPointer(mapping)
      let offset = arenas.section.pointee.offset + UInt64(number * Shape.stride)
      var result = System.writeAll(file, start, Shape.slotsOffset, at: offset)
      var page = 0
      while result >= 0, let run = arena.committedPages(from: page) {
        // The page of the spare slot belongs to the last page.
        page = run.upperBound == Shape.slotPages ? run.upperBound + 1 : run.upperBound
        let first = Shape.slotsOffset + run.lowerBound * pageSize
        result = System.writeAll(
          file, start + first, (page - run.lowerBound) * pageSize, at: offset + UInt64(first))
      }
      guard result >= 0 else { return result }
    }
    return 0
  }

  // MARK: the word that leads to the saved memory

  private static var savedWord: UnsafeMutablePointer<UnsafeMutableRawPointer?> {
    withUnsafeMutablePointer(to: &allocs_process().pointee.saved_state) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
    }
  }
  private static var saved: Saved? {
    allocs_load_acquire_pointer(savedWord)?.assumingMemoryBound(to: allocs_saved_state.self)
  }

  /// Whether the copy is done, so that a thread at the gate waits for the fork alone.
  static var isCopied: Bool { saved != nil }

  // MARK: the parent, after

  static func finish() {
    let process = allocs_process()
    guard let saved, let shared = process.pointee.shared, process.pointee.fork_gate_owner == System.threadID else {
      return
    }
    guard process.pointee.forks_inside == 0 else {
      process.pointee.forks_inside &-= 1
      return
    }
    allocs_store_release_pointer(savedWord, nil)
    Gate.open(shared)
    drop(saved)
  }

  // MARK: the child

  /// True if the child is indexed from here on. Else the child is as if it had not been followed.
  /// `wantsEvents`: events are on from the start, as in the parent.
  static func takeOver(wantsEvents: Bool) -> Bool {
    let process = allocs_process()
    guard process.pointee.follows != 0 else { return false }
    let isExact = Gate.openInChild()
    process.pointee.forks_inside = 0
    let left = saved
    process.pointee.saved_state = nil
    // The saved memory may be meant for the child of another thread that forks at this moment.
    guard let saved = left, saved.pointee.own_block == allocs_registered_block() else {
      process.pointee.follows = 0
      return false
    }
    defer { drop(saved) }
    guard isExact, let shared = process.pointee.shared, let birth = mapCopy(saved) else {
      process.pointee.follows = 0
      return false
    }
    // The page that says whether a gate was broken is of the parent's gate. It is replaced only
    // now, because a new page might have come to lie where the segment goes.
    process.pointee.broken_gate = System.mapShared(pageSize)?.assumingMemoryBound(to: UInt32.self)
    if process.pointee.broken_gate == nil { process.pointee.follows = 0 }
    guard let header = restore(saved, shared, birth) else { return false }
    open(saved, shared, header, wantsEvents: wantsEvents)
    return true
  }

  /// Facts about the child that its header needs, and the copied header does not have.
  private struct Birth {
    /// As Process.startTime.
    var started: Int
    /// As Process.clockOffsets.
    var offsets: (monotonic: Int64, boottime: Int64)?
  }

  /// Maps the copy where the parent has its segment. nil if that can't be done.
  private static func mapCopy(_ saved: Saved) -> Birth? {
    let birth = Birth(started: Process.startTime, offsets: Process.clockOffsets)
    // After unshare(2) a child is in another time namespace: there the clock does not go on from
    // the ticks of the parent.
    guard birth.offsets.map({ $0.monotonic == saved.pointee.monotonic_offset }) ?? true else {
      say("it is in another time namespace", 0)
      return nil
    }
    guard birth.started > 0, mapAll(saved, Int(saved.pointee.file)) else {
      say("its segment cannot be mapped", min(birth.started, 0))
      return nil
    }
    return birth
  }

  private static func mapAll(_ saved: Saved, _ file: Int) -> Bool {
    let process = allocs_process()
    guard let base = process.pointee.fixed_base,
      map(file, UnsafeMutableRawPointer(base), at: 0, process.pointee.fixed_size)
    else { return false }
    let header = UnsafeMutableRawPointer(base).assumingMemoryBound(to: allocs_header.self)
    return withUnsafeMutablePointer(to: &saved.pointee.shared) { shared in
      mapArenas(file, AnchoredSection.arenas(shared, header))
        && mapArenas(file, AnchoredSection.nestedArenas(shared, header))
    }
  }

  private static func mapArenas(_ file: Int, _ arenas: AnchoredSection) -> Bool {
    let section = arenas.section.pointee
    let stride = section.entry_size
    for number in 0..<arenas.count {
      guard let arena = arenas.mappings[number],
        map(file, UnsafeMutableRawPointer(arena), at: section.offset + UInt64(number) * stride, stride)
      else { return false }
    }
    let anchor = arenas.anchor.pointee
    guard let start = anchor.start else { return true }
    return map(file, UnsafeMutableRawPointer(start), at: section.offset + anchor.count * stride, anchor.size)
  }

  private static func map(_ file: Int, _ start: Address, at offset: UInt64, _ size: UInt64) -> Bool {
    System.map(file, at: offset, size, onto: start) && System.keepFromChildren(start, size)
  }

  /// Restores the memory that was wiped, and changes it and the copy to be the child's.
  private static func restore(_ saved: Saved, _ shared: Shared, _ birth: Birth) -> Header? {
    shared.pointee = saved.pointee.shared
    shared.pointee.lock = 0
    guard let header = shared.pointee.header else { return nil }
    reduceCommitted(shared, header)
    header.pointee.forked_from = header.pointee.pid
    header.pointee.pid = System.processID
    header.pointee.uid = System.userID
    header.pointee.start_time = UInt64(birth.started)
    Segment.identify(header, Int(saved.pointee.file), birth.offsets)
    restoreThreads(saved, shared, header)
    startEvents(saved, shared, header)
    return header
  }

  /// Gives the copy its name, and the child its control file.
  private static func open(_ saved: Saved, _ shared: Shared, _ header: Header, wantsEvents: Bool) {
    let error = name(saved, header)
    guard error >= 0 else {
      // The segment stays mapped, without a name, and is gone when the process ends.
      return say("its segment cannot be named", error)
    }
    Consumers.create(in: Int(saved.pointee.directory), header.pointee.pid, header.pointee.start_time, shared)
    if wantsEvents { Consumers.turnOn(for: ALLOCS_ALWAYS) }
  }

  /// Only the parts in use were copied. Memory that the parent had committed beyond is a hole here.
  private static func reduceCommitted(_ shared: Shared, _ header: Header) {
    func reduce(_ table: inout allocs_intern_table, _ id: allocs_section_id) {
      let section = Segment.section(header, id)
      let bytes = (section.pointee.used * section.pointee.entry_size + pageSize - 1) / pageSize * pageSize
      table.committed = min(table.committed, bytes / section.pointee.entry_size)
    }
    reduce(&shared.pointee.nodes, ALLOCS_SECTION_NODES)
    reduce(&shared.pointee.contexts, ALLOCS_SECTION_CONTEXTS)
    Totals.reduceCommitted(shared, header)
    let strings = Segment.section(header, ALLOCS_SECTION_STRINGS).pointee.used
    shared.pointee.strings_committed = min(
      shared.pointee.strings_committed, (strings + pageSize - 1) / pageSize * pageSize)
  }

  /// The rings are the parent's, and so are the consumers of the records in them. The child begins
  /// with no rings.
  private static func startEvents(_ saved: Saved, _ shared: Shared, _ header: Header) {
    let process = allocs_process()
    let rings = AnchoredSection.rings(shared, header)
    Segment.section(header, ALLOCS_SECTION_RINGS).pointee.used = 0
    shared.pointee.positions = nil
    shared.pointee.news_first = shared.pointee.news_end
    if let own = saved.pointee.own_block {
      if own.pointee.events.recording == 0 {
        own.pointee.events = allocs_events()
      } else {
        // A signal handler in the middle of a record called fork. That record, and all that the
        // thread records later, goes to private memory, where nobody reads it.
        for index in 0..<rings.count {
          if let ring = rings.mappings[index] { System.mapOver(ring, process.pointee.ring_size) }
        }
        Index.count(ALLOCS_COUNTER_EVENTS_UNRECORDED)
      }
    }
    for index in 0..<rings.count { rings.mappings[index] = nil }
    Segment.anchorRings(Int(saved.pointee.file), header, shared)
  }

  private static func name(_ saved: Saved, _ header: Header) -> Int {
    var source = Text()
    source.append("/proc/self/fd/")
    source.append(UInt64(saved.pointee.file))
    let target = Segment.fileName(header.pointee.pid, header.pointee.start_time)
    let directory = Int(saved.pointee.directory)
    return source.withCString { source in
      target.withCString { target in
        let result = System.link(source, in: directory, target)
        guard result == System.exists else { return result }
        _ = System.unlink(in: directory, target)
        return System.link(source, in: directory, target)
      }
    }
  }

  /// The calling thread goes on under its new id, in a slot of its own, so that the blocks which it
  /// allocated in the parent keep the id that it had there. The other threads have ended.
  private static func restoreThreads(_ saved: Saved, _ shared: Shared, _ header: Header) {
    let threads = allocs_saved_threads(saved)
    // In the order of the queue of ended threads: first the threads that had ended before. The
    // links of the queue were wiped, so their states tell.
    shared.pointee.ended_first = nil
    shared.pointee.ended_last = nil
    for round in 0..<2 {
      for index in 0..<Int(saved.pointee.thread_count) {
        let thread = threads[index]
        guard let block = thread.block, let entry = thread.entry, block != saved.pointee.own_block,
          (entry.pointee.state == ALLOCS_THREAD_LIVE.rawValue) == (round == 1)
        else { continue }
        Threads.endInChild(block, entry, thread.slot, thread.tid, shared)
      }
    }
    if let own = saved.pointee.own_block {
      own.pointee = saved.pointee.own
      Threads.continueInChild(own, shared, header)
    }
  }
}
