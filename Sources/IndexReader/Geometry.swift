// The header's check: from a copy of it and the file's size to section bounds that are safe to use.
//
// - What is checked is a copy, and only the copy is used: the file may change between a check and a use.
// - A version has one size for each entry; a header that says another is damaged, not newer.
// - Sections lie inside the file, behind the header's page, on page boundaries, and don't overlap.

import ByteText
import SharedLayout
import SystemAccess

/// A section's checked place.
struct SectionPlace: Sendable {
  var offset = 0
  var capacity = 0
}

/// What a header says, checked.
struct Geometry: Sendable {
  let fileSize: UInt64
  let processID: Int32
  let startTime: UInt64
  let forkedFrom: Int32?
  let programsBefore: UInt32
  let userID: UInt32
  /// Of the time namespace that the segment counts in; nil if that is not known.
  let clockOffsets: ClockOffsets?
  /// Whether the process holds a lock of the file for as long as it has it mapped.
  let isLockedByProcess: Bool
  let command: [String]
  let hasFullStacks: Bool
  let modules: SectionPlace
  /// Of no entries, if the segment has no such section.
  let moduleFiles: SectionPlace
  let strings: SectionPlace
  let threads: SectionPlace
  let formerThreads: SectionPlace
  let nodes: SectionPlace
  let contexts: SectionPlace
  let regionBits: SectionPlace
  let directory: SectionPlace
  let arenas: SectionPlace
  let allocators: SectionPlace
  /// Of no entries, if the segment has no such section.
  let mappings: SectionPlace
  /// Capacity 0 if the segment has no room for any.
  let nested: SectionPlace
  /// Capacity 0 if the segment has no such section.
  let bypasses: SectionPlace
  /// Of the event rings; capacity 0 if the segment has none.
  let rings: SectionPlace
  /// Records of one ring, a power of two; 0 if there are none.
  let ringRecords: Int

  /// Reads the header of `file` and checks it.
  init(of file: borrowing OpenFile, path: String) throws(Complaint) {
    var header = allocs_header()
    let wanted = MemoryLayout<allocs_header>.size
    let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: wanted, alignment: 8)
    defer { bytes.deallocate() }
    let count = try file.readStart(into: bytes, path: path)
    try Self.checkMagic(UnsafeRawBufferPointer(rebasing: bytes[..<count]), path: path)
    let versionEnd = 12
    guard count >= versionEnd else {
      throw .truncated(path: path, why: "it has only \(count) bytes")
    }
    let version = bytes.load(fromByteOffset: 8, as: UInt32.self)
    guard version >= ALLOCS_OLDEST_LAYOUT_VERSION, version <= ALLOCS_LAYOUT_VERSION else {
      throw .otherVersion(path: path, found: version, known: ALLOCS_LAYOUT_VERSION)
    }
    guard count == wanted else {
      throw .truncated(path: path, why: "it has \(count) bytes, a header alone takes \(wanted)")
    }
    let size = version == 2 ? Int(ALLOCS_HEADER_SIZE_2) : wanted
    // What this version's header does not have reads as zero.
    for index in size..<wanted { bytes[index] = 0 }
    header = bytes.load(as: allocs_header.self)
    try self.init(header, size: size, actualSize: file.size, path: path)
  }

  private static func checkMagic(_ bytes: UnsafeRawBufferPointer, path: String) throws(Complaint) {
    guard !bytes.isEmpty else {
      throw .truncated(path: path, why: "it is empty: the process is about to write it, or someone cut it")
    }
    let present = bytes.prefix(8)
    let magic = withUnsafeBytes(of: ALLOCS_MAGIC.littleEndian) { Array($0) }
    if present.elementsEqual(magic.prefix(present.count)) { return }
    if present.allSatisfy({ $0 == 0 }) {
      if present.count == 8 { throw .halfWritten(path: path) }
      throw .truncated(path: path, why: "it has only \(present.count) bytes")
    }
    throw .notASegment(path: path, why: "it does not begin with a segment's magic")
  }

  private init(_ header: allocs_header, size wanted: Int, actualSize: UInt64, path: String) throws(Complaint) {
    func damaged(_ why: String) -> Complaint { .notASegment(path: path, why: why) }
    guard header.header_size == wanted else {
      throw damaged("its header says that it takes \(header.header_size) bytes instead of \(wanted)")
    }
    // Sections are addressed below 2^47: no file that can be mapped is larger.
    guard header.file_size > UInt64(ALLOCS_PAGE_SIZE), header.file_size < 1 << 47 else {
      throw damaged("its header says that the file has \(header.file_size) bytes")
    }
    guard actualSize >= header.file_size else {
      throw .truncated(path: path, why: "it has \(actualSize) of \(header.file_size) bytes")
    }
    guard header.pid > 0, header.pid <= Int32.max else { throw damaged("its header has process id \(header.pid)") }
    guard header.state <= ALLOCS_STATE_EXITED.rawValue else { throw damaged("its header has state \(header.state)") }
    guard header.command_size <= ALLOCS_COMMAND_SIZE else {
      throw damaged("its header says that the command has \(header.command_size) bytes")
    }
    let table = withUnsafeBytes(of: header.sections) { Array($0.bindMemory(to: allocs_section.self)) }
    var ranges: [Range<UInt64>] = []
    func place(
      _ id: allocs_section_id, _ name: String, entry: Int, capacity: Int? = nil, atMost limit: Int = .max
    ) throws(Complaint) -> SectionPlace {
      let section = table[Int(id.rawValue)]
      guard section.entry_size == entry else {
        throw damaged("an entry of its \(name) takes \(section.entry_size) bytes instead of \(entry)")
      }
      let (size, tooLarge) = section.capacity.multipliedReportingOverflow(by: section.entry_size)
      let (end, tooFar) = section.offset.addingReportingOverflow(size)
      guard !tooLarge, !tooFar, end <= header.file_size, section.offset >= UInt64(ALLOCS_PAGE_SIZE),
        section.offset % UInt64(ALLOCS_PAGE_SIZE) == 0
      else {
        throw damaged("its \(name) lie at \(section.offset), \(section.capacity) entries, outside the file")
      }
      if section.capacity > limit || section.capacity != capacity ?? Int(section.capacity) {
        throw damaged("it has room for \(section.capacity) entries of its \(name)")
      }
      if size > 0 { ranges.append(section.offset..<end) }
      return SectionPlace(offset: Int(section.offset), capacity: Int(section.capacity))
    }
    modules = try place(ALLOCS_SECTION_MODULES, "modules", entry: MemoryLayout<allocs_module>.stride)
    strings = try place(ALLOCS_SECTION_STRINGS, "strings", entry: 1)
    threads = try place(
      ALLOCS_SECTION_THREADS, "threads", entry: MemoryLayout<allocs_thread>.stride, atMost: Int(ALLOCS_THREAD_UNKNOWN))
    formerThreads = try place(
      ALLOCS_SECTION_FORMER_THREADS, "former threads", entry: MemoryLayout<allocs_former_thread>.stride)
    nodes = try place(
      ALLOCS_SECTION_NODES, "stack nodes", entry: MemoryLayout<allocs_node>.stride, atMost: Int(ALLOCS_NODE_LIMIT))
    contexts = try place(ALLOCS_SECTION_CONTEXTS, "contexts", entry: 8, atMost: Int(ALLOCS_CONTEXT_LIMIT))
    regionBits = try place(
      ALLOCS_SECTION_REGION_BITS, "region bits", entry: 8,
      capacity: Layout.regionLevel1Words + Layout.regionLevel0Words)
    directory = try place(
      ALLOCS_SECTION_DIRECTORY, "arena directory", entry: 4, capacity: Layout.regionCount)
    arenas = try place(ALLOCS_SECTION_ARENAS, "arenas", entry: Layout.arenaStride, atMost: Layout.regionCount)
    allocators = try place(
      ALLOCS_SECTION_ALLOCATORS, "allocators", entry: MemoryLayout<allocs_allocator>.stride,
      atMost: Int(ALLOCS_ALLOCATOR_CAPACITY))
    let mappingSection = table[Int(ALLOCS_SECTION_MAPPINGS.rawValue)]
    mappings =
      mappingSection.capacity == 0 && mappingSection.offset == 0 && mappingSection.entry_size == 0
      ? SectionPlace()
      : try place(
        ALLOCS_SECTION_MAPPINGS, "mappings", entry: MemoryLayout<allocs_mapping>.stride,
        atMost: Int(ALLOCS_MAPPING_CAPACITY))
    let fileSection = table[Int(ALLOCS_SECTION_MODULE_FILES.rawValue)]
    moduleFiles =
      fileSection.capacity == 0 && fileSection.offset == 0 && fileSection.entry_size == 0
      ? SectionPlace()
      : try place(ALLOCS_SECTION_MODULE_FILES, "module files", entry: MemoryLayout<allocs_module_file>.stride)
    let nestedSection = table[Int(ALLOCS_SECTION_NESTED.rawValue)]
    nested =
      nestedSection.capacity == 0 && nestedSection.offset == 0 && nestedSection.entry_size == 0
      ? SectionPlace()
      : try place(
        ALLOCS_SECTION_NESTED, "nested arenas", entry: Layout.nestedStride, atMost: Int(ALLOCS_NESTED_CAPACITY))
    let bypassSection = table[Int(ALLOCS_SECTION_BYPASSES.rawValue)]
    bypasses =
      bypassSection.capacity == 0 && bypassSection.offset == 0 && bypassSection.entry_size == 0
      ? SectionPlace()
      : try place(
        ALLOCS_SECTION_BYPASSES, "bypasses", entry: MemoryLayout<allocs_bypass>.stride,
        atMost: Int(ALLOCS_BYPASS_CAPACITY))
    let ringSection = table[Int(ALLOCS_SECTION_RINGS.rawValue)]
    let ringSize = ringSection.entry_size
    if ringSection.capacity == 0, ringSection.offset == 0, ringSize == 0 {
      rings = SectionPlace()
      ringRecords = 0
    } else {
      let records = ringSize > Layout.ringRecordsOffset ? (ringSize - Layout.ringRecordsOffset) / Layout.eventSize : 0
      guard ringSection.capacity > 0, records >= ALLOCS_RING_RECORDS_MIN, records <= ALLOCS_RING_RECORDS_MAX,
        records.nonzeroBitCount == 1,
        ringSize == Layout.ringRecordsOffset + records * Layout.eventSize
      else { throw damaged("it has \(ringSection.capacity) event rings of \(ringSize) bytes") }
      rings = try place(ALLOCS_SECTION_RINGS, "event rings", entry: Int(ringSize), atMost: Int(ALLOCS_RING_COUNT))
      ringRecords = Int(records)
    }
    ranges.sort { $0.lowerBound < $1.lowerBound }
    for (lower, upper) in zip(ranges, ranges.dropFirst()) where lower.upperBound > upper.lowerBound {
      throw damaged("two of its sections overlap at \(upper.lowerBound)")
    }

    fileSize = header.file_size
    processID = Int32(header.pid)
    startTime = header.start_time
    forkedFrom = header.forked_from == 0 ? nil : Int32(truncatingIfNeeded: header.forked_from)
    programsBefore = header.programs_before
    userID = header.uid
    clockOffsets = ClockOffsets(header)
    isLockedByProcess = header.identity & ALLOCS_IDENTITY_LOCKED.rawValue != 0
    hasFullStacks = header.flags & ALLOCS_FLAG_FULL_STACKS.rawValue != 0
    command = withUnsafeBytes(of: header.command) { bytes in
      var arguments = bytes.prefix(Int(header.command_size)).split(separator: 0, omittingEmptySubsequences: false)
      if arguments.last?.isEmpty == true { arguments.removeLast() }
      return arguments.map { String(reversibly: Array($0)) }
    }
  }
}
