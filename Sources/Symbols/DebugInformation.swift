// SPDX-License-Identifier: Apache-2.0
// The DWARF of one module: source lines, functions, and what was inlined into them.
//
// Three steps: which compilation unit holds an address (all units' ranges, read once; .debug_aranges isn't used, as
// clang, rustc and swiftc leave it out), which function in that unit (read when the unit is first needed), which
// inlined calls in that function (walked each time; the results are cached above).
//
// A unit may be split: what the program has of it gives its ranges and lines, the other half all else (SplitUnits).
//
// The file may be hostile. Everything that a loop follows is bounded: numbers of entries by the size of what is read,
// intervals that are kept by `Allowance`, depth by `deepest`; and each loop asks the question's budget. What libdw
// would do at once by the file's word is checked before (DWARFCheck, LineTableCheck). What our bounds leave out is
// said (`problem`); what a budget cut short is not kept. libdw never opens a file by itself: .dwo and .dwp files, and
// the common file of `dwz`, are looked for by us. Not thread-safe: the owner holds a lock.

import Bounds
import ByteText
import CLibdw
import Glibc

struct DebugInformation: ~Copyable {
  /// Levels of nested entries that are followed; compilers stay well below 100.
  private static let deepest = 256
  /// Largest sum of DWARF sections that is read, in bytes; unpacked.
  static let largest: UInt64 = 1 << 30
  /// Largest sum of the sections of split files of one module, in bytes: they are copied twice while they are made
  /// whole.
  private static let largestSplit: UInt64 = 384 << 20
  /// Inlined calls at one address; compilers stay well below 64.
  private static let mostInlined = 128

  /// What of one module may be kept: far above what the largest programs have, and together some hundred MiB.
  private struct Allowance {
    /// Ranges of functions, in all units.
    var functions = 8 << 20
    /// Rows of line tables, which libdw keeps.
    var rows = 10 << 20
  }
  private static let mostUnitRanges = 4 << 20
  private static let mostSkeletonBytes = 64 << 20

  private let dwarf: OpaquePointer
  private let commonDwarf: OpaquePointer?
  /// Own the sections that `dwarf` and `commonDwarf` point into.
  let file: ObjectFile
  private let commonFile: ObjectFile?
  let units: IntervalIndex<Int>
  private var entries: [Unit]
  private var functions: [Int: IntervalIndex<Dwarf_Die>] = [:]
  private var scopes = ScopeTable()
  private var variables: VariableIndex?
  private(set) var cost: Int
  /// The sections of the files: pages that the system can take back, mostly.
  private let sectionCost: Int
  /// Bytes of what was made of them.
  var madeCost: Int { cost &- sectionCost }
  /// Entries and ranges that a walk may come to; an honest file has fewer.
  private let workLimit: Int
  private var allowance = Allowance()
  /// Whether the unit's line table may be read, for those that were asked for.
  private var lineTables: [UInt64: Bool] = [:]
  /// Why less is known than the debug information says: a bound of ours was met. Nil if none was.
  private var cut: String?
  private let lines: LineTableCheck
  private(set) var lists = AddressLists()

  private let search: DebugFileSearch
  /// Of the file: nil if it has none.
  private let ownerID: UInt32?
  /// Where packages of .dwo files are looked for: beside these.
  private let objectPaths: [ForeignText]
  /// Units whose other half was looked for in vain; of so many the path is said.
  private var problems = 0
  private static let mostProblems = 1000
  private var splitFiles: [ForeignText: SplitFile] = [:]
  private var isPackageOpen = false
  private var package: SplitFile?
  /// Bytes of split files that may still be read.
  private var splitBudget = DebugInformation.largestSplit

  private struct Unit {
    /// The unit in the program, which gives lines.
    var entry: Dwarf_Die
    /// The skeleton by which the other half is looked for; nil if there is no other half.
    var skeleton: Skeleton?
    var isLookedFor = false
    /// The first entry of the other half.
    var half: Dwarf_Die?
    /// Why the other half is missing.
    var problem: String?
  }

  struct Location {
    var file: ForeignText?
    var line: Int?
  }

  struct InlineFrame {
    /// As the source says it, with what it is declared in: `space::Class::f`.
    var name: String?
    /// The assembler's name, mangled by the rules of the language.
    var linkageName: UnsafePointer<CChar>?
    var location: Location
    var inlined: Bool
  }

  /// Nil if the file has no usable DWARF; `problem` then says why, if it should have some.
  ///
  /// - `objectPaths`: of the module and its debug file.
  /// - `locations`: whether to read where variables are in frames, for `local`.
  init?(
    file: ObjectFile, search: DebugFileSearch, objectPaths: [ForeignText], locations: Bool, problem: inout String?
  ) {
    guard Self.isPresent(in: file) else { return nil }
    var cut: String?
    guard let (dwarf, readable) = Self.open(file, locations: locations, &cut) else {
      problem = cut ?? "its debug information is damaged, or too large"
      return nil
    }
    var name: UnsafePointer<CChar>?
    var id: UnsafeRawPointer?
    let idSize = dwelf_dwarf_gnu_debugaltlink(dwarf, &name, &id)
    var common: (dwarf: OpaquePointer, file: ObjectFile)?
    if idSize > 0, let name {
      let buildID = [UInt8](UnsafeRawBufferPointer(start: id, count: idSize))
      let path = ForeignText(boundedPath: name)
      let found = search.commonDebugFile(name: path, buildID: buildID, referringFile: file)
      common = found.flatMap { Self.open($0, locations: locations, &cut) }
      guard let common else {
        problem = "the common part of its debug information is \(found == nil ? "missing" : "damaged"): \(path)"
        dwarf_end(dwarf)
        return nil
      }
      dwarf_setalt(dwarf, common.dwarf)
    }
    self.dwarf = dwarf
    ownerID = file.ownerID
    self.file = readable
    self.search = search
    self.objectPaths = objectPaths
    commonDwarf = common?.dwarf
    commonFile = common?.file
    workLimit = max(file.size, Self.size(in: file))
    lines = LineTableCheck(
      lines: Self.contents("line", of: readable), lineTexts: Self.contents("line_str", of: readable),
      texts: Self.contents("str", of: readable))
    let limit = min(workLimit, Self.mostUnitRanges)
    lists.add(dwarf, readable)
    if let common { lists.add(common.dwarf, common.file) }
    (units, entries) = Self.readUnits(dwarf, lists, limit: limit)
    if units.count >= limit { cut = cut ?? Self.tooMany("ranges of units") }
    self.cut = cut
    sectionCost = Self.size(in: file) &+ (common.map { Self.size(in: $0.file) } ?? 0)
    cost = sectionCost &+ units.cost &+ entries.count &* (MemoryLayout<Unit>.stride &+ DWARFCheck.unitBytes)
  }

  deinit {
    dwarf_end(dwarf)
    if let commonDwarf { dwarf_end(commonDwarf) }
  }

  private static func tooMany(_ things: String) -> String {
    "names are incomplete: its debug information has too many \(things)"
  }

  private static func dwarfSections(_ file: ObjectFile) -> [ObjectFile.Section] {
    file.sections.filter { $0.type != SHT_NOBITS && ($0.name.hasPrefix(".debug_") || $0.name.hasPrefix(".zdebug_")) }
  }

  /// The sections that libdw looks at: it reads some more than we ask for.
  private static func readSections(_ file: ObjectFile) -> [ObjectFile.Section] {
    file.sections.filter { section in
      section.type != SHT_NOBITS
        && [".debug_", ".zdebug_", ".gnu.debuglto_", ".gnu_debugaltlink"].contains { section.name.hasPrefix($0) }
    }
  }

  /// Whether a name of a function or of a line, or a variable that lies at one place, needs this section: libdw reads
  /// each section that it knows, and of what compilers write a fifth is needed for nothing of that.
  private static func isNeeded(_ section: ObjectFile.Section, locations: Bool) -> Bool {
    let needed = ["info", "types", "abbrev", "line", "line_str", "str", "str_offsets", "addr", "ranges", "rnglists"]
    let parts = locations ? needed + ["loc", "loclists"] : needed
    return section.name == ".gnu_debugaltlink"
      || parts.contains { section.name == ".debug_\($0)" || section.name == ".zdebug_\($0)" }
  }

  /// Bytes of all sections of debug information, unpacked; `largest` at most.
  static func size(in file: ObjectFile) -> Int {
    let sum = dwarfSections(file).reduce(Foreign<UInt64>(0)) { $0 + $1.unpackedSize }
    return Int(clamping: sum.saturated(at: largest))
  }

  static func isPresent(in file: ObjectFile) -> Bool {
    dwarfSections(file).contains { $0.name == ".debug_info" || $0.name == ".zdebug_info" }
  }

  /// The file's DWARF, and the owner of its sections: the file, or an image of it where they are packed in a way that
  /// libelf doesn't know.
  /// `problem`: why that is not all of it, or there is none.
  private static func open(
    _ file: ObjectFile, locations: Bool, _ problem: inout String?
  ) -> (dwarf: OpaquePointer, file: ObjectFile)? {
    guard isPresent(in: file) else { return nil }
    for section in readSections(file) where !isNeeded(section, locations: locations) { file.hide(section) }
    let sections = dwarfSections(file).filter { isNeeded($0, locations: locations) }
    guard isSizeAllowed(readSections(file), budget: largest) != nil else {
      problem = "its debug information is too large: more than \(largest >> 20) MiB"
      return nil
    }
    var readable = file
    // libdw reads a text that stands in an entry to its zero, also past the section's end; in an image zeros follow.
    let runsOn = ["info", "types"].contains { name in (contents(name, of: file)?.last ?? 0) != 0 }
    if runsOn || sections.contains(where: { $0.compression != nil && $0.compression != Compression.zlib }) {
      var image = ELFImage(machine: file.machine)
      for section in [sections, file.sections.filter { $0.name == ".gnu_debugaltlink" }].joined() {
        guard let bytes = file.contents(of: section) else { return nil }
        image.append(section.name.hasPrefix(".z") ? "." + section.name.dropFirst(2) : section.name, bytes)
      }
      let bytes = image.build()
      file.releaseUnpacked()
      guard let unpacked = ObjectFile(image: bytes, path: file.path, kind: .common) else { return nil }
      readable = unpacked
    }
    // libdw reads a string to its zero, also past the end of a section that was damaged.
    for section in dwarfSections(readable)
    where section.name.hasSuffix("debug_str") || section.name.hasSuffix("debug_line_str") {
      readable.terminate(section)
    }
    cutUnsound(readable, &problem)
    // libdw unpacks each section at once, and slower.
    for section in dwarfSections(readable) where section.compression != nil { _ = readable.contents(of: section) }
    guard !Budget.hasEnded else { return nil }
    return dwarf_begin_elf(readable.elf, DWARF_C_READ, nil).map { ($0, readable) }
  }

  /// Leaves the units that libdw may see.
  static func cutUnsound(_ file: ObjectFile, _ problem: inout String?) {
    var check = DWARFCheck(abbreviations: contents("abbrev", of: file))
    for name in ["info", "types"] {
      guard let section = section(name, of: file), let bytes = file.contents(of: section) else { continue }
      file.cut(
        section, to: check.soundSize(of: bytes, named: ".debug_\(name)", isTypes: name == "types"))
    }
    problem = problem ?? check.problem
  }

  /// The bytes that are left of `budget` when these sections are unpacked; nil if they need more.
  private static func isSizeAllowed(_ sections: [ObjectFile.Section], budget: UInt64) -> UInt64? {
    var left = budget
    for section in sections {
      let size = max(section.size, section.unpackedSize)
      guard size <= left else { return nil }
      left &-= size
    }
    return left
  }

  // MARK: split units

  /// The entry below which a unit's functions and variables are.
  private mutating func root(ofUnit index: Int) -> Dwarf_Die {
    lookForHalf(ofUnit: index)
    return entries[index].half ?? entries[index].entry
  }

  /// Why the functions at `address` are not known; nil if nothing is in the way.
  mutating func problem(at address: UInt64) -> String? {
    guard let index = units.innermost(at: address)?.payload else { return nil }
    lookForHalf(ofUnit: index)
    return entries[index].problem ?? cut
  }

  /// Why those of some unit are not known, of those that have been looked for.
  var problem: String? { entries.lazy.compactMap(\.problem).first ?? cut }

  private mutating func lookForHalf(ofUnit index: Int) {
    guard !Budget.hasEnded, let skeleton = entries[index].skeleton, !entries[index].isLookedFor else { return }
    entries[index].isLookedFor = true
    defer {
      // What was not found for want of time is looked for again.
      if Budget.hasEnded { (entries[index].isLookedFor, entries[index].problem) = (false, nil) }
    }
    if let half = openPackage()?.root(skeleton.id) {
      entries[index].half = half
      return
    }
    var problem: String?
    var meter = BudgetMeter(interval: 1)
    for path in search.splitFilePaths(skeleton, objectPaths: objectPaths) where meter.goesOn() {
      if let known = splitFiles[path]?.root(skeleton.id) {
        entries[index].half = known
        return
      }
      guard splitFiles[path] == nil, let candidate = ObjectFile(path: path, kind: .split, besideFileOf: ownerID)
      else { continue }
      let name = skeleton.name
      let directory = skeleton.directory
      let members = entries.compactMap(\.skeleton).filter { $0.name == name && $0.directory == directory }
      if let half = openSplit(candidate, members, &problem) {
        splitFiles[path] = half
        entries[index].half = half.root(skeleton.id)
        if entries[index].half != nil { return }
      }
    }
    problems &+= 1
    entries[index].problem =
      problems > Self.mostProblems
      ? "its split debug information (.dwo) is missing"
      : problem ?? "its split debug information (.dwo) is missing: \(skeleton.path)"
  }

  private mutating func openPackage() -> SplitFile? {
    if isPackageOpen { return package }
    isPackageOpen = true
    var problem: String?
    let skeletons = entries.compactMap(\.skeleton)
    for path in search.packagePaths(objectPaths) where package == nil {
      guard let candidate = ObjectFile(path: path, kind: .split, besideFileOf: ownerID),
        candidate.section(named: ".debug_cu_index") != nil
      else { continue }
      package = openSplit(candidate, skeletons, &problem)
    }
    if Budget.hasEnded { isPackageOpen = false }
    return package
  }

  /// The halves of `members` in a file; nil, and why, if there are none.
  private mutating func openSplit(
    _ candidate: ObjectFile, _ members: [Skeleton], _ problem: inout String?
  ) -> SplitFile? {
    let sections = candidate.sections.filter { $0.type != SHT_NOBITS && $0.name.hasSuffix(".dwo") }
    guard let left = Self.isSizeAllowed(sections, budget: splitBudget) else {
      problem = "its split debug information is too large to be read as a whole"
      return nil
    }
    // Of the program's sections only what belongs to these units.
    let all = entries.compactMap(\.skeleton)
    let isPackage = candidate.section(named: ".debug_cu_index") != nil
    let addresses = Self.part(
      contents("addr"), of: members.map(\.addresses), all: isPackage ? [] : all.map(\.addresses))
    let ranges = Self.part(contents("ranges"), of: members.map(\.ranges), all: isPackage ? [] : all.map(\.ranges))
    var skeletons: [UInt64: Skeleton] = [:]
    for var skeleton in members {
      skeleton.addresses &-= UInt64(clamping: addresses.start)
      skeleton.ranges &-= UInt64(clamping: ranges.start)
      skeletons[skeleton.id] = skeleton
    }
    let taken = UInt64(clamping: (addresses.bytes?.count ?? 0) &+ (ranges.bytes?.count ?? 0))
    guard taken <= left,
      let found = SplitFile(candidate, skeletons: skeletons, addresses: addresses.bytes, ranges: ranges.bytes)
    else {
      problem = "its split debug information is damaged, or of another build: \(candidate.path)"
      return nil
    }
    splitBudget = left &- taken
    found.add(to: &lists)
    cost &+= found.cost
    return found
  }

  private static func section(_ name: String, of file: ObjectFile) -> ObjectFile.Section? {
    file.section(named: ".debug_\(name)") ?? file.section(named: ".zdebug_\(name)")
  }

  static func contents(_ name: String, of file: ObjectFile) -> UnsafeRawBufferPointer? {
    section(name, of: file).flatMap { file.contents(of: $0) }
  }

  private func contents(_ name: String) -> UnsafeRawBufferPointer? { Self.contents(name, of: file) }

  /// The bytes from the first of `bases` to the next of `all` behind the last of them.
  private static func part(
    _ section: UnsafeRawBufferPointer?, of bases: [UInt64], all: [UInt64]
  ) -> (bytes: UnsafeRawBufferPointer?, start: Int) {
    guard let section, let low = bases.min(), let high = bases.max(), let start = Int(exactly: low),
      start < section.count
    else { return (nil, 0) }
    if all.isEmpty { return (section, 0) }
    let end = min(all.filter { $0 > high }.min().flatMap { Int(exactly: $0) } ?? section.count, section.count)
    return (UnsafeRawBufferPointer(rebasing: section[start..<max(start, end)]), start)
  }

  // MARK: variables

  /// Entries that are looked at to find variables, so that the largest programs are answered within seconds.
  private static let mostEntries = 50_000_000

  /// The variable that holds `address`, of the ELF file or an offset in the thread-local storage; the part `plus` bytes
  /// behind it.
  mutating func variable(at address: UInt64, plus distance: UInt64, isThreadLocal: Bool) -> Variable? {
    // First without those inside functions, which takes a hundredth of the time.
    for insideFunctions in [false, true] {
      if variables == nil || insideFunctions && variables?.isWhole == false {
        let found = VariableIndex(
          units: entries.indices.map { root(ofUnit: $0) }, insideFunctions: insideFunctions, limit: Self.mostEntries)
        guard !Budget.hasEnded else { return nil }
        if found.isCut { cut = cut ?? Self.tooMany("variables") }
        cost &+= found.cost &- (variables?.cost ?? 0)
        variables = found
      }
      let index = isThreadLocal ? variables?.threadLocal : variables?.ordinary
      if let found = index?.innermost(at: address) {
        return describe(found.payload, at: address &- found.start &+ distance)
      }
    }
    return nil
  }

  /// The part of a variable that holds the byte `offset` bytes from its start.
  private mutating func describe(_ variable: VariableEntry, at offset: UInt64) -> Variable {
    let linkageName =
      Self.string(DW_AT_linkage_name, of: variable.entry)
      ?? Self.string(DW_AT_MIPS_linkage_name, of: variable.entry)
    let source = Self.string(DW_AT_name, of: variable.entry).map { "\(variable.scope)\(String(bounded: $0))" }
    var name = source ?? "(unnamed)"
    if let linkageName {
      let full = demangled(cString: linkageName)
      if full != String(bounded: linkageName) || source == nil { name = full }
    }
    return describe(variable.entry, inUnit: variable.unit, named: name, at: offset)
  }

  mutating func describe(
    _ entry: Dwarf_Die, inUnit index: Int, named name: String, at offset: UInt64
  ) -> Variable {
    var entry = entry
    var unit = Dwarf_Die()
    let language = dwarf_diecu(&entry, &unit, nil, nil) == nil ? nil : Int(truncatingIfNeeded: dwarf_srclang(&unit))
    var walk = TypeWalk(language: language)
    var part = VariablePart(path: name, type: nil, offset: offset)
    if let type = TypeWalk.type(ofVariable: entry) { part = walk.part(of: type, at: offset, path: name) }
    var line: Int32 = 0
    let hasLine = dwarf_decl_line(&entry, &line) == 0 && line > 0
    return Variable(
      path: ForeignText(part.path), type: part.type.map { ForeignText($0) }, offset: part.offset, size: part.size,
      isPadding: part.isPadding, alternatives: part.alternatives.map { ForeignText($0) },
      file: declarationFile(entry, inUnit: index), line: hasLine ? Int(truncatingIfNeeded: line) : nil)
  }

  /// The file that an entry is declared in, by the table of its unit; an entry that took its file from another unit's
  /// declaration has it in that unit's table.
  private mutating func declarationFile(_ entry: Dwarf_Die, inUnit index: Int) -> ForeignText? {
    var entry = entry
    var attribute = Dwarf_Attribute()
    var number: Dwarf_Word = 0
    guard dwarf_attr_integrate(&entry, UInt32(truncatingIfNeeded: DW_AT_decl_file), &attribute) != nil,
      dwarf_formudata(&attribute, &number) == 0
    else { return nil }
    var version: Dwarf_Half = 0
    guard dwarf_cu_info(attribute.cu, &version, nil, nil, nil, nil, nil, nil) == 0, number > 0 || version >= 5 else {
      return nil
    }
    var table = entries[index].entry
    if attribute.cu != entry.cu {
      var declaration = Dwarf_Die()
      // The table of a split unit's types isn't kept.
      guard entries[index].half == nil, dwarf_cu_die(attribute.cu, &declaration, nil, nil, nil, nil, nil, nil) != nil
      else { return nil }
      table = declaration
    }
    var files: OpaquePointer?
    var count = 0
    guard isLineTableAllowed(table), dwarf_getsrcfiles(&table, &files, &count) == 0,
      let number = Foreign(number).int(upTo: count &- 1), let name = dwarf_filesrc(files, number, nil, nil)
    else { return nil }
    let file = ForeignText(bounded: name)
    return file == "???" ? nil : file
  }

  // MARK: units

  private static func readUnits(_ dwarf: OpaquePointer, _ lists: AddressLists, limit: Int) -> (
    IntervalIndex<Int>, [Unit]
  ) {
    var entries: [Unit] = []
    var intervals: [IntervalIndex<Int>.Interval] = []
    var unit: OpaquePointer?
    var next: OpaquePointer?
    var type: UInt8 = 0
    var entry = Dwarf_Die()
    var skeletonBytes = 0
    // The last argument stays null: libdw would open the .dwo file that the unit names.
    var meter = BudgetMeter(interval: 64)
    var memory = MemoryMeter(bytes: DWARFCheck.unitBytes &+ 2 &* MemoryLayout<Unit>.stride)
    var ranges = MemoryMeter(bytes: 3 &* MemoryLayout<IntervalIndex<Int>.Interval>.stride)
    while meter.goesOn(), memory.goesOn(), dwarf_get_units(dwarf, unit, &next, nil, &type, &entry, nil) == 0 {
      unit = next
      // A skeleton of DWARF 4 that has entries of its own is one of these units to libdw, too.
      guard [DW_UT_compile, DW_UT_skeleton, DW_UT_split_compile].contains(Int(truncatingIfNeeded: type)) else {
        continue
      }
      let index = entries.count
      // Each names a file and a directory.
      let skeleton = skeletonBytes < mostSkeletonBytes ? Skeleton(entry) : nil
      skeletonBytes &+= skeleton?.cost ?? 0
      entries.append(Unit(entry: entry, skeleton: skeleton))
      lists.forEachRange(of: entry) { start, end in
        guard intervals.count < limit, ranges.goesOn() else { return false }
        intervals.append(.init(start: start, end: end, payload: index))
        return true
      }
    }
    return (IntervalIndex(intervals) { $0.end < $1.end }, entries)
  }

  // MARK: functions

  /// The functions of a unit by their addresses.
  mutating func functions(ofUnit index: Int) -> IntervalIndex<Dwarf_Die> {
    if let known = functions[index] { return known }
    var intervals: [IntervalIndex<Dwarf_Die>.Interval] = []
    let limit = walkLimit
    var remaining = limit
    var meter = BudgetMeter(interval: 256)
    var memory = MemoryMeter(bytes: 3 &* MemoryLayout<IntervalIndex<Dwarf_Die>.Interval>.stride)
    var open: [Dwarf_Die] = []
    var entry = root(ofUnit: index)
    var next = Dwarf_Die()
    walk: while remaining > 0, meter.goesOn() {
      remaining &-= 1
      if Int(truncatingIfNeeded: dwarf_tag(&entry)) == DW_TAG_subprogram {
        let function = entry
        let most = min(limit, allowance.functions)
        lists.forEachRange(of: function) { start, end in
          guard intervals.count < most, memory.goesOn() else { return false }
          intervals.append(.init(start: start, end: end, payload: function))
          return true
        }
      }
      if open.count < Self.deepest, Self.mayHoldFunctions(&entry), dwarf_child(&entry, &next) == 0 {
        open.append(entry)
        entry = next
        continue
      }
      while dwarf_siblingof(&entry, &next) != 0 {
        // Each of these calls passes over all below an entry.
        guard open.count > 1, meter.goesOn() else { break walk }
        entry = open.removeLast()
      }
      if open.isEmpty { break }
      entry = next
    }
    if Budget.hasEnded { return IntervalIndex([]) { _, _ in false } }
    if intervals.count >= allowance.functions { cut = cut ?? Self.tooMany("functions") }
    allowance.functions &-= intervals.count
    let result = IntervalIndex(intervals) { $0.end < $1.end }
    functions[index] = result
    cost &+= result.cost
    return result
  }

  /// Entries and ranges of one unit that a walk may come to, those of split files included.
  private var walkLimit: Int { workLimit &+ Int(clamping: Self.largestSplit &- splitBudget) }

  private static func mayHoldFunctions(_ entry: inout Dwarf_Die) -> Bool {
    switch Int(truncatingIfNeeded: dwarf_tag(&entry)) {
    case DW_TAG_array_type, DW_TAG_enumeration_type, DW_TAG_subroutine_type, DW_TAG_call_site, DW_TAG_GNU_call_site,
      DW_TAG_formal_parameter, DW_TAG_variable, DW_TAG_variant_part:
      return false
    default:
      return true
    }
  }

  // MARK: one address

  /// The functions that the instruction at `address` (of the ELF file) belongs to, innermost first. Empty if DWARF
  /// doesn't cover it; one frame without a name if only its line is known.
  mutating func frames(at address: UInt64) -> [InlineFrame] {
    guard !Budget.hasEnded, let index = units.innermost(at: address)?.payload else { return [] }
    var location = sourceLine(ofUnit: index, at: address)
    guard let function = functions(ofUnit: index).innermost(at: address) else {
      return location.file == nil
        ? [] : [InlineFrame(name: nil, linkageName: nil, location: location, inlined: false)]
    }
    var chain = [function.payload]
    appendInlined(at: address, below: function.payload, depth: 0, to: &chain)
    var result: [InlineFrame] = []
    let limit = walkLimit
    let scopeCost = scopes.cost
    defer { cost &+= scopes.cost &- scopeCost }
    for (position, entry) in chain.enumerated().reversed() {
      result.append(
        InlineFrame(
          name: scopes.name(of: entry, limit: limit),
          linkageName: Self.string(DW_AT_linkage_name, of: entry) ?? Self.string(DW_AT_MIPS_linkage_name, of: entry),
          location: location, inlined: position > 0))
      location = callSite(entry, unit: index)
    }
    if scopes.isCut { cut = cut ?? Self.tooMany("scopes of functions") }
    return result
  }

  /// Appends the inlined calls that hold `address`, outermost first.
  private func appendInlined(at address: UInt64, below parent: Dwarf_Die, depth: Int, to chain: inout [Dwarf_Die]) {
    guard depth < Self.deepest, chain.count < Self.mostInlined else { return }
    var parent = parent
    var entry = Dwarf_Die()
    guard dwarf_child(&parent, &entry) == 0 else { return }
    var remaining = walkLimit
    // A list of ranges, and all below an entry, are passed over in one call.
    var meter = BudgetMeter(interval: 8)
    while remaining > 0, meter.goesOn() {
      remaining &-= 1
      let tag = Int(truncatingIfNeeded: dwarf_tag(&entry))
      let isInlined = tag == DW_TAG_inlined_subroutine
      if isInlined || tag == DW_TAG_lexical_block || tag == DW_TAG_try_block || tag == DW_TAG_catch_block,
        lists.holds(entry, address)
      {
        if isInlined { chain.append(entry) }
        appendInlined(at: address, below: entry, depth: depth &+ 1, to: &chain)
        return
      }
      var next = Dwarf_Die()
      guard dwarf_siblingof(&entry, &next) == 0 else { return }
      entry = next
    }
  }

  /// The value of an attribute of `entry`, or of the declaration that it is an instance of.
  static func string(_ attribute: Int, of entry: Dwarf_Die) -> UnsafePointer<CChar>? {
    var entry = entry
    var found = Dwarf_Attribute()
    guard dwarf_attr_integrate(&entry, UInt32(truncatingIfNeeded: attribute), &found) != nil else { return nil }
    return dwarf_formstring(&found)
  }

  /// A path, without a look at what `entry` is an instance of.
  static func ownPath(_ attribute: Int, of entry: Dwarf_Die) -> ForeignText? {
    var entry = entry
    var found = Dwarf_Attribute()
    guard dwarf_attr(&entry, UInt32(truncatingIfNeeded: attribute), &found) != nil else { return nil }
    return dwarf_formstring(&found).map { ForeignText(boundedPath: $0) }
  }

  static func ownNumber(_ attribute: Int, of entry: Dwarf_Die) -> UInt64? {
    var entry = entry
    var found = Dwarf_Attribute()
    var value: Dwarf_Word = 0
    guard dwarf_attr(&entry, UInt32(truncatingIfNeeded: attribute), &found) != nil, dwarf_formudata(&found, &value) == 0
    else { return nil }
    return value
  }

  /// Whether libdw may read the line table of a unit.
  private mutating func isLineTableAllowed(_ unit: Dwarf_Die) -> Bool {
    var unit = unit
    var attribute = Dwarf_Attribute()
    var offset: Dwarf_Word = 0
    guard dwarf_attr(&unit, UInt32(truncatingIfNeeded: DW_AT_stmt_list), &attribute) != nil,
      dwarf_formudata(&attribute, &offset) == 0
    else { return false }
    // libdw keeps a table by its offset, too.
    if let known = lineTables[offset] { return known }
    var directory: UnsafePointer<CChar>?
    if dwarf_attr(&unit, UInt32(truncatingIfNeeded: DW_AT_comp_dir), &attribute) != nil {
      directory = dwarf_formstring(&attribute)
    }
    guard let rows = lines.rows(at: offset, directory: directory), rows <= allowance.rows,
      // libdw's rows, and pointers by which they are sorted.
      Budget.spendCurrent(bytes: rows &* 64)
    else {
      if !Budget.hasEnded {
        lineTables[offset] = false
        cut = cut ?? "lines are incomplete: a line table is damaged, or too large"
      }
      return false
    }
    allowance.rows &-= rows
    cost &+= rows &* 48
    lineTables[offset] = true
    return true
  }

  private mutating func sourceLine(ofUnit index: Int, at address: UInt64) -> Location {
    guard isLineTableAllowed(entries[index].entry) else { return Location() }
    guard let line = dwarf_getsrc_die(&entries[index].entry, address) else { return Location() }
    var number: Int32 = 0
    guard let file = dwarf_linesrc(line, nil, nil), dwarf_lineno(line, &number) == 0 else { return Location() }
    // Line 0 is the compiler's way to say that an instruction belongs to no line.
    guard let path = path(file, unit: index) else { return Location() }
    return Location(file: path, line: number > 0 ? Int(truncatingIfNeeded: number) : nil)
  }

  /// Where an inlined function was called.
  private mutating func callSite(_ entry: Dwarf_Die, unit index: Int) -> Location {
    var entry = entry
    var attribute = Dwarf_Attribute()
    var value: Dwarf_Word = 0
    var location = Location()
    if dwarf_attr(&entry, UInt32(truncatingIfNeeded: DW_AT_call_line), &attribute) != nil,
      dwarf_formudata(&attribute, &value) == 0,
      value > 0
    {
      location.line = Int(exactly: value)
    }
    var files: OpaquePointer?
    var count = 0
    if dwarf_attr(&entry, UInt32(truncatingIfNeeded: DW_AT_call_file), &attribute) != nil,
      dwarf_formudata(&attribute, &value) == 0,
      isLineTableAllowed(entries[index].entry), dwarf_getsrcfiles(&entries[index].entry, &files, &count) == 0,
      let number = Foreign(value).int(upTo: count &- 1), let file = dwarf_filesrc(files, number, nil, nil)
    {
      location.file = path(file, unit: index)
    }
    return location
  }

  /// Absolute, if the unit says in which directory it was compiled. Nil where there is no file: libdw writes "???"
  /// for a broken table, compilers write "<compiler-generated>" and the like for code that nobody wrote.
  private mutating func path(_ name: UnsafePointer<CChar>, unit index: Int) -> ForeignText? {
    let path = ForeignText(bounded: name)
    if path.isEmpty || path == "???" || path.hasSuffix(">") { return nil }
    var attribute = Dwarf_Attribute()
    guard !path.isAbsolutePath,
      dwarf_attr(&entries[index].entry, UInt32(truncatingIfNeeded: DW_AT_comp_dir), &attribute) != nil,
      let directory = dwarf_formstring(&attribute), directory[0] != 0
    else { return path }
    return "\(ForeignText(bounded: directory))/\(path)"
  }
}
