// SPDX-License-Identifier: Apache-2.0
// Segment: makes the segment's file, maps it, and writes its header. Everything here happens once,
// at the start of the process.
//
// Invariant: the process has a complete segment, whose magic is stored last, or none. On any
// failure the file is removed, the mappings are given back, and the process runs on without an
// index.

import AgentMachine
import SharedLayout

enum Segment {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)

  // MARK: sections

  @inline(__always)
  static func section(
    _ header: UnsafeMutablePointer<allocs_header>, _ id: allocs_section_id
  ) -> UnsafeMutablePointer<allocs_section> {
    withUnsafeMutablePointer(to: &header.pointee.sections) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: allocs_section.self) + Int(id.rawValue)
    }
  }

  /// Where the entries of a section are mapped. Not for arenas and rings, which are mapped one by
  /// one.
  @inline(__always)
  static func start(_ header: UnsafeMutablePointer<allocs_header>, _ id: allocs_section_id) -> Address {
    UnsafeMutableRawPointer(header) + Int(section(header, id).pointee.offset)
  }

  private struct Capacities {
    private var nodes: UInt64 = UInt64(ALLOCS_NODE_LIMIT)
    private var arenas: UInt64 = UInt64(ALLOCS_ARENA_CAPACITY)
    private var nested: UInt64 = UInt64(ALLOCS_NESTED_CAPACITY)
    private var rings: UInt64 = UInt64(ALLOCS_RING_COUNT)
    private var modules: UInt64 = UInt64(ALLOCS_MODULE_CAPACITY)
    private var strings: UInt64 = UInt64(ALLOCS_STRINGS_CAPACITY)
    private let wantsTotals: Bool

    /// A process with little address space, or allowed only small files, gets smaller tables.
    init(ringSize: UInt64, wantsTotals: Bool) {
      self.wantsTotals = wantsTotals
      // Bytes of a node, a context and its total.
      let nodeSize: UInt64 = wantsTotals ? 40 : 24
      let addressSpace = System.limit(.addressSpace)
      if addressSpace != .max {
        while nodes > 1 << 12, nodes * nodeSize > addressSpace / 64 { nodes /= 2 }
        // A nested arena takes as much address space as the region that it is for.
        nested = min(nested, addressSpace / 4 / UInt64(ALLOCS_NESTED_STRIDE))
      }
      let fileSize = System.limit(.fileSize)
      if addressSpace != .max || fileSize != .max {
        modules = UInt64(ALLOCS_MODULE_CAPACITY_SMALL)
        strings = UInt64(ALLOCS_STRINGS_CAPACITY_SMALL)
      }
      if fileSize != .max {
        while nodes > 1 << 12, nodes * nodeSize > fileSize / 4 { nodes /= 2 }
        let rest = fileSize / 2 / UInt64(ALLOCS_ARENA_STRIDE)
        if rest < arenas { arenas = rest }
        nested = min(nested, fileSize / 8 / UInt64(ALLOCS_NESTED_STRIDE))
        rings = min(rings, fileSize / 8 / ringSize)
      }
    }

    /// Of a section: as the list of sections says, where no limit counts.
    func capacity(of facts: allocs_section_facts) -> UInt64 {
      switch facts.id {
      case ALLOCS_SECTION_NODES.rawValue, ALLOCS_SECTION_CONTEXTS.rawValue: nodes
      case ALLOCS_SECTION_TOTALS.rawValue: wantsTotals ? nodes : 0
      case ALLOCS_SECTION_ARENAS.rawValue: arenas
      case ALLOCS_SECTION_NESTED.rawValue: nested
      case ALLOCS_SECTION_RINGS.rawValue: rings
      case ALLOCS_SECTION_MODULES.rawValue, ALLOCS_SECTION_MODULE_FILES.rawValue: modules
      case ALLOCS_SECTION_STRINGS.rawValue: strings
      default: facts.capacity
      }
    }
  }

  /// Gives each section of the list in allocs_section.h its place in the file, in the list's order.
  private static func layOut(
    _ header: UnsafeMutablePointer<allocs_header>, ringRecords: UInt64, wantsTotals: Bool
  ) {
    let ringSize = UInt64(ALLOCS_RING_RECORDS_OFFSET) + ringRecords * UInt64(MemoryLayout<allocs_event>.stride)
    let capacities = Capacities(ringSize: ringSize, wantsTotals: wantsTotals)
    var offset = pageSize
    for row in 0..<UInt32(ALLOCS_SECTION_ROWS.rawValue) {
      let facts = allocs_section_facts(row)
      let capacity = capacities.capacity(of: facts)
      // A section of capacity 0 that may be missing is missing: its place stays zero.
      if capacity == 0, facts.presence == ALLOCS_SECTION_OPTIONAL.rawValue { continue }
      let section = section(header, allocs_section_id(facts.id))
      section.pointee.offset = offset
      section.pointee.entry_size = facts.id == ALLOCS_SECTION_RINGS.rawValue ? ringSize : facts.entry_size
      section.pointee.capacity = capacity
      section.pointee.used = facts.presence == ALLOCS_SECTION_WHOLE.rawValue ? capacity : 0
      let end = offset + section.pointee.entry_size * capacity
      offset = (end + pageSize - 1) / pageSize * pageSize
    }
    header.pointee.file_size = offset
    for id in 0..<Int(ALLOCS_SECTION_SPACE) {
      allocs_kept_sections()[id] = section(header, allocs_section_id(UInt32(id))).pointee
    }
  }

  // MARK: making it

  /// Why there is no segment, for the line that ALLOCS_VERBOSE asks for: what could not be done,
  /// and what would help.
  struct Failure: Error {
    var what: StaticString
    var advice: StaticString
    /// A negated error number, or 0.
    var code: Int = 0

    static var noMemory: Failure {
      Failure(
        what: "cannot get memory for the segment",
        advice: "free space in the segment directory's file system (Linux 5.14 or newer is needed)")
    }
    static var noAddressSpace: Failure {
      Failure(what: "cannot map the segment", advice: "raise the limit of address space (ulimit -v)")
    }
    static var tooLarge: Failure {
      Failure(what: "cannot size the segment", advice: "raise the limit of file size (ulimit -f)")
    }
  }

  /// Makes and maps the segment in `directory`, an open descriptor. On success `shared` has the
  /// addresses of the segment.
  static func create(
    in directory: Int, _ shared: UnsafeMutablePointer<allocs_shared>
  ) -> Failure? {
    let found = Process.startTime
    guard found > 0 else {
      return Failure(what: "cannot read /proc/self/stat", advice: "mount /proc", code: found)
    }
    let startTime = UInt64(found)
    let pid = System.processID
    let name = fileName(pid, startTime)
    return name.withCString { path in
      var descriptor = open(in: directory, path)
      var programsBefore: UInt32 = 0
      if descriptor == System.exists {
        // The file is of this very process: of the program that it ran before it called exec.
        programsBefore = self.programsBefore(in: directory, path) &+ 1
        _ = System.unlink(in: directory, path)
        descriptor = open(in: directory, path)
      }
      guard descriptor >= 0 else {
        return Failure(
          what: "cannot create a file in the segment directory",
          advice: "make it writable, or set ALLOCS_DIR to one that is", code: descriptor)
      }
      var failure: Failure?
      do throws(Failure) {
        try fill(descriptor, pid, startTime, shared)
      } catch {
        failure = error
      }
      System.close(descriptor)
      if failure != nil {
        _ = System.unlink(in: directory, path)
      } else {
        shared.pointee.header?.pointee.programs_before = programsBefore
        Consumers.create(in: directory, pid, startTime, shared)
      }
      return failure
    }
  }

  /// The number of programs before, as the header at `path` has it; 0 if it can't be read.
  private static func programsBefore(in directory: Int, _ path: UnsafePointer<CChar>) -> UInt32 {
    typealias Flags = System.OpenFlags
    // A file of another kind with this name, for example a pipe, must not hold the program up.
    let descriptor = System.openWithin(directory, path, Flags.readOnly | Flags.nonBlocking)
    guard descriptor >= 0 else { return 0 }
    defer { System.close(descriptor) }
    // The start of struct allocs_header.
    var head: (magic: UInt64, version: UInt32, UInt32) = (0, 0, 0)
    var number: UInt32 = 0
    guard read(descriptor, &head, at: 0), head.magic == UInt64(ALLOCS_MAGIC),
      head.version >= UInt32(ALLOCS_PROGRAMS_BEFORE_VERSION),
      read(descriptor, &number, at: UInt64(ALLOCS_PROGRAMS_BEFORE_OFFSET))
    else { return 0 }
    return number
  }

  /// Reads `value` from an open file at `offset`; false if the file is shorter, or can't be read.
  static func read<Value>(_ descriptor: Int, _ value: inout Value, at offset: UInt64) -> Bool {
    let size = MemoryLayout<Value>.size
    return withUnsafeMutableBytes(of: &value) {
      System.read(descriptor, $0.baseAddress!.assumingMemoryBound(to: UInt8.self), size, at: offset)
    } == size
  }

  static func fileName(_ pid: UInt32, _ startTime: UInt64) -> Text {
    var name = Text()
    name.append(UInt64(pid))
    name.append(".")
    name.append(startTime)
    name.append(".seg")
    return name
  }

  private static func open(in directory: Int, _ path: UnsafePointer<CChar>) -> Int {
    typealias Flags = System.OpenFlags
    return System.open(
      in: directory, path, Flags.readWrite | Flags.create | Flags.exclusive | Flags.noFollow, mode: 0o600)
  }

  /// Sizes the file, maps it, and writes the header.
  private static func fill(
    _ descriptor: Int, _ pid: UInt32, _ startTime: UInt64, _ shared: UnsafeMutablePointer<allocs_shared>
  ) throws(Failure) {
    let fixedSize = try size(
      descriptor, ringRecords: shared.pointee.ring_records, wantsTotals: shared.pointee.wants_totals != 0)
    let parts = try map(descriptor, fixedSize)
    let header = parts.start.assumingMemoryBound(to: allocs_header.self)
    describe(header, pid, startTime)
    identify(header, descriptor, Process.clockOffsets)
    allocs_process().pointee.fixed_base = parts.start.assumingMemoryBound(to: UInt8.self)
    allocs_process().pointee.fixed_size = fixedSize
    shared.pointee.header = header
    AnchoredSection.arenas(shared, header).begin(at: parts.arenaAnchor)
    AnchoredSection.nestedArenas(shared, header).begin(at: parts.nestedAnchor)
    anchorRings(descriptor, header, shared)
    shared.pointee.nodes.next_id = 1
    Totals.begin(shared, header)
    shared.pointee.strings_committed = pageSize
  }

  /// Writes the layout to the header's page, and gives the file the size that it says. Returns the
  /// size of all that lies before the arenas.
  private static func size(
    _ descriptor: Int, ringRecords: UInt64, wantsTotals: Bool
  ) throws(Failure) -> UInt64 {
    guard System.limit(.fileSize) >= 2 * pageSize, System.truncate(descriptor, pageSize) >= 0 else { throw .tooLarge }
    guard let page = System.map(descriptor, at: 0, pageSize) else { throw .noAddressSpace }
    defer { System.unmap(page, pageSize) }
    guard System.commit(page, pageSize) else { throw .noMemory }
    let header = page.assumingMemoryBound(to: allocs_header.self)
    layOut(header, ringRecords: ringRecords, wantsTotals: wantsTotals)
    let fileSize = header.pointee.file_size
    let arenas = section(header, ALLOCS_SECTION_ARENAS).pointee
    guard arenas.capacity > 0, System.limit(.fileSize) >= fileSize, System.truncate(descriptor, fileSize) >= 0 else {
      throw .tooLarge
    }
    return arenas.offset
  }

  /// The parts of the file that are mapped at the start: all that lies before the arenas, and the
  /// first pages of the first arena and the first nested arena. Without the last of these,
  /// suballocations are counted and nothing else.
  private struct Parts {
    var start: Address
    var arenaAnchor: Address
    var nestedAnchor: Address?
  }

  private static func map(_ descriptor: Int, _ fixedSize: UInt64) throws(Failure) -> Parts {
    guard let start = System.map(descriptor, at: 0, fixedSize) else { throw .noAddressSpace }
    let header = start.assumingMemoryBound(to: allocs_header.self)
    let arenaAnchor = System.map(descriptor, at: fixedSize, pageSize)
    let nested = section(header, ALLOCS_SECTION_NESTED).pointee
    let nestedAnchor =
      nested.capacity == 0
      ? nil
      : System.map(descriptor, at: nested.offset, pageSize, preferring: addressAside(of: UInt(bitPattern: start)))
    guard let arenaAnchor, nestedAnchor.map({ System.keepFromChildren($0, pageSize) }) ?? true,
      System.keepFromChildren(start, fixedSize), System.keepFromChildren(arenaAnchor, pageSize),
      commitFirstPages(header)
    else {
      System.unmap(start, fixedSize)
      if let arenaAnchor { System.unmap(arenaAnchor, pageSize) }
      if let nestedAnchor { System.unmap(nestedAnchor, pageSize) }
      throw arenaAnchor == nil ? .noAddressSpace : .noMemory
    }
    return Parts(start: start, arenaAnchor: arenaAnchor, nestedAnchor: nestedAnchor)
  }

  /// The address at which nested arenas are to begin, if there is room: away from the program's
  /// mappings. Each nested arena takes as much address space as the region that it is for. Between
  /// the program's mappings, it would drive each new mapping into a region of its own, which needs
  /// another arena. From this address, nested arenas grow in place, one behind the other.
  private static func addressAside(of start: UInt) -> UInt {
    let distance: UInt = 1 << 42
    return start > 2 * distance ? (start - distance) & ~((1 << UInt(ALLOCS_REGION_SHIFT)) - 1) : 0
  }

  /// Maps the first page of the first ring. Where that can't be done, there are no rings, and
  /// events are counted as unrecorded.
  static func anchorRings(
    _ descriptor: Int, _ header: UnsafeMutablePointer<allocs_header>, _ shared: UnsafeMutablePointer<allocs_shared>
  ) {
    let rings = section(header, ALLOCS_SECTION_RINGS).pointee
    AnchoredSection.rings(shared, header).begin(at: nil)
    guard rings.capacity > 0, let anchor = System.map(descriptor, at: rings.offset, pageSize) else { return }
    guard System.keepFromChildren(anchor, pageSize) else {
      System.unmap(anchor, pageSize)
      return
    }
    allocs_process().pointee.ring_size = rings.entry_size
    AnchoredSection.rings(shared, header).begin(at: anchor)
  }

  private static func commitFirstPages(_ header: UnsafeMutablePointer<allocs_header>) -> Bool {
    System.commit(start(header, ALLOCS_SECTION_MODULES), pageSize)
      && System.commit(start(header, ALLOCS_SECTION_MODULE_FILES), pageSize)
      && System.commit(start(header, ALLOCS_SECTION_STRINGS), pageSize)
      && System.commit(start(header, ALLOCS_SECTION_THREADS), pageSize)
  }

  private static func describe(_ header: UnsafeMutablePointer<allocs_header>, _ pid: UInt32, _ startTime: UInt64) {
    header.pointee.layout_version = UInt32(ALLOCS_LAYOUT_VERSION)
    header.pointee.header_size = UInt32(MemoryLayout<allocs_header>.size)
    header.pointee.pid = pid
    header.pointee.uid = System.userID
    header.pointee.start_time = startTime
    header.pointee.state = ALLOCS_STATE_LIVE.rawValue
    header.pointee.clock.monotonic_ns = System.nanoseconds(.monotonic)
    header.pointee.clock.realtime_ns = System.nanoseconds(.realtime)
    withUnsafeMutablePointer(to: &header.pointee.command) {
      let bytes = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt8.self)
      let size = Process.readFile("/proc/self/cmdline", bytes, Int(ALLOCS_COMMAND_SIZE))
      header.pointee.command_size = UInt32(max(0, size))
    }
  }

  /// Writes the offsets of the process's time namespace, if they are known, and locks the file: the
  /// lock tells anybody who finds the file whether the process still has it.
  static func identify(
    _ header: UnsafeMutablePointer<allocs_header>, _ descriptor: Int, _ offsets: (monotonic: Int64, boottime: Int64)?
  ) {
    var known: UInt32 = 0
    if let offsets {
      header.pointee.monotonic_offset = offsets.monotonic
      header.pointee.boottime_offset = offsets.boottime
      known |= ALLOCS_IDENTITY_CLOCKS.rawValue
    }
    if System.lock(descriptor) { known |= ALLOCS_IDENTITY_LOCKED.rawValue }
    header.pointee.identity = known
  }

  /// Opens the segment to readers.
  static func publish(_ header: UnsafeMutablePointer<allocs_header>) {
    allocs_store_release_u64(&header.pointee.magic, UInt64(ALLOCS_MAGIC))
  }
}
