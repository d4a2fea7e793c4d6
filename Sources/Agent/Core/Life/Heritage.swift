// Heritage: gives a child of fork a segment of its own, with an exact copy of the index as of the fork
// (ALLOCS_FOLLOW=1).
//
//   parent, before   close the gate; make a file without a name; write to it what of the segment is backed by memory; put what the
//                    child will find wiped into private memory, of which it gets a copy as of everything else
//   child            map the file where the parent's segment was: every pointer of the agent's private memory then means the same
//                    there, and so does what a hook under way holds in registers; put back what was wiped; make the threads that
//                    did not come along ended ones; give the file its name
//   parent, after    open the gate
//
// Invariants:
// - The file has no name until all in it is right: nobody ever sees half a copy.
// - On any failure the child runs without an index, as if it were not to be followed; the parent's counter says so.
// - In the parent, nothing but system calls and stores: a signal handler may call fork.

import AgentMachine
import SharedLayout

enum Heritage {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private typealias Shared = UnsafeMutablePointer<allocs_shared>
  private typealias Header = UnsafeMutablePointer<allocs_header>
  private typealias Bequest = UnsafeMutablePointer<allocs_bequest>

  // MARK: the parent, before

  static func prepare() {
    let process = allocs_process()
    guard process.pointee.follows != 0, process.pointee.phase == ALLOCS_PHASE_READY.rawValue,
      let shared = process.pointee.shared, let header = shared.pointee.header
    else { return }
    if process.pointee.fork_gate_owner == System.threadID {
      // In a signal handler, while this thread forks. Neither child is followed.
      process.pointee.forks_inside &+= 1
      return Gate.breakOpen()
    }
    // For a fork of another thread, which must not wait for this one: in a signal handler it may be inside a hook.
    if allocs_registered_block() == nil, let thread = Start.enterNewThread() { allocs_leave(thread) }
    guard let own = allocs_registered_block(), own.pointee.entry != nil else {
      return refuse("its thread is not indexed", 0)
    }
    var result = Gate.Closing.busy
    // More threads than these do not fork at once in earnest.
    for _ in 0..<64 where result == .busy {
      Gate.wait(own)
      result = Gate.close(shared)
    }
    guard result == .closed else { return refuse("its threads did not come to rest", 0) }
    guard let bequest = makeBequest(shared) else {
      Gate.open(shared)
      return refuse("there is no memory", 0)
    }
    let error = fill(bequest, shared, header, own)
    guard error >= 0 else {
      drop(bequest)
      Gate.open(shared)
      return refuse("its segment cannot be made", error)
    }
    allocs_store_release_pointer(place, UnsafeMutableRawPointer(bequest))
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

  private static func makeBequest(_ shared: Shared) -> Bequest? {
    var count: UInt64 = 0
    Threads.forEach(shared) { _ in count += 1 }
    let bytes = UInt64(MemoryLayout<allocs_bequest>.size) + count * UInt64(MemoryLayout<allocs_heir>.stride)
    let size = (bytes + pageSize - 1) / pageSize * pageSize
    guard let memory = System.map(size) else { return nil }
    let bequest = memory.assumingMemoryBound(to: allocs_bequest.self)
    bequest.pointee.file = -1
    bequest.pointee.directory = -1
    bequest.pointee.size = size
    return bequest
  }

  private static func drop(_ bequest: Bequest) {
    if bequest.pointee.file >= 0 { System.close(Int(bequest.pointee.file)) }
    if bequest.pointee.directory >= 0 { System.close(Int(bequest.pointee.directory)) }
    System.unmap(UnsafeMutableRawPointer(bequest), bequest.pointee.size)
  }

  private static func fill(_ bequest: Bequest, _ shared: Shared, _ header: Header, _ own: Thread) -> Int {
    typealias Flags = System.OpenFlags
    let noRoom = -27  // EFBIG
    bequest.pointee.directory = Int64(
      System.open(allocs_directory(), Flags.readOnly | Flags.directory | Flags.noFollow))
    guard bequest.pointee.directory >= 0 else { return Int(bequest.pointee.directory) }
    bequest.pointee.file = Int64(System.openUnnamed(in: Int(bequest.pointee.directory), mode: 0o600))
    let file = Int(bequest.pointee.file)
    guard file >= 0 else { return file }
    // Beyond the limit, the kernel would send a signal.
    guard System.limit(.fileSize) >= header.pointee.file_size else { return noRoom }
    let sized = System.truncate(file, header.pointee.file_size)
    guard sized >= 0 else { return sized }
    bequest.pointee.monotonic_offset = header.pointee.monotonic_offset
    bequest.pointee.shared = shared.pointee
    bequest.pointee.own = own.pointee
    bequest.pointee.own_place = own
    listHeirs(bequest, shared)
    return copy(to: file, shared, header)
  }

  private static func listHeirs(_ bequest: Bequest, _ shared: Shared) {
    let heirs = allocs_heirs(bequest)
    var count = 0
    Threads.forEach(shared) { thread in
      heirs[count] = allocs_heir(
        block: thread, entry: thread.pointee.entry, slot: thread.pointee.slot, tid: thread.pointee.tid)
      count += 1
    }
    bequest.pointee.heir_count = UInt64(count)
  }

  // MARK: the copy

  /// Writes all of the segment that is backed by memory, but not the rings of events, which are the parent's. A negated
  /// error number if it cannot be done. A hole that is read here becomes a page of the parent's; where there is no
  /// memory for that, the kernel says so.
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

  /// Of what is mapped in one piece with the header.
  private static func copy(to file: Int, _ header: Header, _ offset: UInt64, _ size: UInt64) -> Int {
    System.writeAll(file, UnsafeMutableRawPointer(header) + Int(offset), Int(size), at: offset)
  }

  /// Those pages of a section whose bit is set in `known`, `size` bytes.
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
        // The page of the spare slot goes with the last.
        page = run.upperBound == Shape.slotPages ? run.upperBound + 1 : run.upperBound
        let place = Shape.slotsOffset + run.lowerBound * pageSize
        result = System.writeAll(
          file, start + place, (page - run.lowerBound) * pageSize, at: offset + UInt64(place))
      }
      guard result >= 0 else { return result }
    }
    return 0
  }

  private static var place: UnsafeMutablePointer<UnsafeMutableRawPointer?> {
    withUnsafeMutablePointer(to: &allocs_process().pointee.bequest) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
    }
  }
  private static var bequest: Bequest? {
    allocs_load_acquire_pointer(place)?.assumingMemoryBound(to: allocs_bequest.self)
  }

  /// Whether the copy is done, and the fork itself is waited for.
  static var isCopied: Bool { bequest != nil }

  // MARK: the parent, after

  static func finish() {
    let process = allocs_process()
    guard let bequest, let shared = process.pointee.shared, process.pointee.fork_gate_owner == System.threadID else {
      return
    }
    guard process.pointee.forks_inside == 0 else {
      process.pointee.forks_inside &-= 1
      return
    }
    allocs_store_release_pointer(place, nil)
    Gate.open(shared)
    drop(bequest)
  }

  // MARK: the child

  /// True if the child is indexed from here on. Else it is as if it had not been followed.
  /// `wantsEvents`: events are on from the start, as in the parent.
  static func takeOver(wantsEvents: Bool) -> Bool {
    let process = allocs_process()
    guard process.pointee.follows != 0 else { return false }
    let isExact = Gate.openInChild()
    process.pointee.forks_inside = 0
    let left = bequest
    process.pointee.bequest = nil
    // What is there may be for the child of another thread, which forks at the same time.
    guard let bequest = left, bequest.pointee.own_place == allocs_registered_block() else {
      process.pointee.follows = 0
      return false
    }
    defer { drop(bequest) }
    guard isExact, let shared = process.pointee.shared else {
      process.pointee.follows = 0
      return false
    }
    let file = Int(bequest.pointee.file)
    let started = Process.startTime
    let offsets = Process.clockOffsets
    // After unshare(2) a child is in another time namespace: its clock does not go on from its parent's ticks.
    guard offsets.map({ $0.monotonic == bequest.pointee.monotonic_offset }) ?? true else {
      process.pointee.follows = 0
      say("it is in another time namespace", 0)
      return false
    }
    guard started > 0, mapAll(bequest, file) else {
      process.pointee.follows = 0
      say("its segment cannot be mapped", min(started, 0))
      return false
    }
    // The parent's is of the parent's gate. Not before the segment is mapped: it might come to lie in its place.
    process.pointee.broken_gate = System.mapShared(pageSize)?.assumingMemoryBound(to: UInt32.self)
    if process.pointee.broken_gate == nil { process.pointee.follows = 0 }
    shared.pointee = bequest.pointee.shared
    shared.pointee.lock = 0
    guard let header = shared.pointee.header else { return false }
    reduceCommitted(shared, header)
    describe(header, started)
    Segment.identify(header, file, offsets)
    inheritThreads(bequest, shared, header)
    startEvents(bequest, shared, header)
    let error = name(bequest, header)
    if error >= 0 {
      Consumers.create(in: Int(bequest.pointee.directory), header.pointee.pid, header.pointee.start_time, shared)
      if wantsEvents { Consumers.turnOn(for: ALLOCS_ALWAYS) }
    } else {
      // The segment stays mapped, without a name: what is written to it goes away with the process.
      say("its segment cannot be named", error)
    }
    return true
  }

  /// Maps the copy where the parent has its segment.
  private static func mapAll(_ bequest: Bequest, _ file: Int) -> Bool {
    let process = allocs_process()
    guard let base = process.pointee.fixed_base,
      take(file, UnsafeMutableRawPointer(base), at: 0, process.pointee.fixed_size)
    else { return false }
    let header = UnsafeMutableRawPointer(base).assumingMemoryBound(to: allocs_header.self)
    return withUnsafeMutablePointer(to: &bequest.pointee.shared) { shared in
      mapArenas(file, AnchoredSection.arenas(shared, header))
        && mapArenas(file, AnchoredSection.nestedArenas(shared, header))
    }
  }

  private static func mapArenas(_ file: Int, _ arenas: AnchoredSection) -> Bool {
    let section = arenas.section.pointee
    let stride = section.entry_size
    for number in 0..<arenas.count {
      guard let arena = arenas.mappings[number],
        take(file, UnsafeMutableRawPointer(arena), at: section.offset + UInt64(number) * stride, stride)
      else { return false }
    }
    let anchor = arenas.anchor.pointee
    guard let start = anchor.start else { return true }
    return take(file, UnsafeMutableRawPointer(start), at: section.offset + anchor.count * stride, anchor.size)
  }

  private static func take(_ file: Int, _ start: Address, at offset: UInt64, _ size: UInt64) -> Bool {
    System.map(file, at: offset, size, onto: start) && System.keepFromChildren(start, size)
  }

  /// Only what is in use was copied; what the parent had committed beyond is a hole here.
  private static func reduceCommitted(_ shared: Shared, _ header: Header) {
    func reduce(_ table: inout allocs_intern_table, _ id: allocs_section_id) {
      let section = Segment.section(header, id)
      let bytes = (section.pointee.used * section.pointee.entry_size + pageSize - 1) / pageSize * pageSize
      table.committed = min(table.committed, bytes / section.pointee.entry_size)
    }
    reduce(&shared.pointee.nodes, ALLOCS_SECTION_NODES)
    reduce(&shared.pointee.contexts, ALLOCS_SECTION_CONTEXTS)
    let strings = Segment.section(header, ALLOCS_SECTION_STRINGS).pointee.used
    shared.pointee.strings_committed = min(
      shared.pointee.strings_committed, (strings + pageSize - 1) / pageSize * pageSize)
  }

  private static func describe(_ header: Header, _ started: Int) {
    header.pointee.forked_from = header.pointee.pid
    header.pointee.pid = System.processID
    header.pointee.uid = System.userID
    header.pointee.start_time = UInt64(started)
  }

  /// The rings are the parent's, and so are the consumers of what is in them. The child begins with none.
  private static func startEvents(_ bequest: Bequest, _ shared: Shared, _ header: Header) {
    let process = allocs_process()
    let rings = AnchoredSection.rings(shared, header)
    Segment.section(header, ALLOCS_SECTION_RINGS).pointee.used = 0
    shared.pointee.positions = nil
    shared.pointee.news_first = shared.pointee.news_end
    if let own = bequest.pointee.own_place {
      if own.pointee.events.recording == 0 {
        own.pointee.events = allocs_events()
      } else {
        // A signal handler in the middle of a record called fork. That record, and the thread's others, go nowhere.
        for index in 0..<rings.count {
          if let ring = rings.mappings[index] { System.mapOver(ring, process.pointee.ring_size) }
        }
        Index.count(ALLOCS_COUNTER_EVENTS_UNRECORDED)
      }
    }
    for index in 0..<rings.count { rings.mappings[index] = nil }
    Segment.anchorRings(Int(bequest.pointee.file), header, shared)
  }

  private static func name(_ bequest: Bequest, _ header: Header) -> Int {
    var source = Text()
    source.append("/proc/self/fd/")
    source.append(UInt64(bequest.pointee.file))
    let target = Segment.fileName(header.pointee.pid, header.pointee.start_time)
    let directory = Int(bequest.pointee.directory)
    return source.withCString { source in
      target.withCString { target in
        let result = System.link(source, in: directory, target)
        guard result == System.exists else { return result }
        _ = System.unlink(in: directory, target)
        return System.link(source, in: directory, target)
      }
    }
  }

  /// This thread goes on under its new id, in a slot of its own, so that what it allocated in the parent keeps the id
  /// it had there. The others have ended.
  private static func inheritThreads(_ bequest: Bequest, _ shared: Shared, _ header: Header) {
    let heirs = allocs_heirs(bequest)
    // In the order of the queue: first those that had ended before. Their links were wiped, so by their state.
    shared.pointee.ended_first = nil
    shared.pointee.ended_last = nil
    for round in 0..<2 {
      for index in 0..<Int(bequest.pointee.heir_count) {
        let heir = heirs[index]
        guard let block = heir.block, let entry = heir.entry, block != bequest.pointee.own_place,
          (entry.pointee.state == ALLOCS_THREAD_LIVE.rawValue) == (round == 1)
        else { continue }
        Threads.bury(block, entry, heir.slot, heir.tid, shared)
      }
    }
    if let own = bequest.pointee.own_place {
      own.pointee = bequest.pointee.own
      Threads.continueInChild(own, shared, header)
    }
  }
}
