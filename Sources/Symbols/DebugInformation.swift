// The DWARF of one module: source lines, functions, and what was inlined into them.
//
// Three steps: which compilation unit holds an address (all units' ranges, read once; .debug_aranges isn't used, as
// clang, rustc and swiftc leave it out), which function in that unit (read when the unit is first needed), which
// inlined calls in that function (walked each time; the results are cached above).
//
// The file may be hostile. Everything that a loop follows is bounded: numbers of entries and ranges by the file's size,
// depth by `deepest`. libdw never opens a file by itself: units in .dwo files are used for lines only, and the common
// file of `dwz` is looked for by us. Not thread-safe: the owner holds a lock.

import CLibdw
import Glibc

struct DebugInformation: ~Copyable {
  /// Levels of nested entries that are followed; compilers stay well below 100.
  private static let deepest = 256
  /// Largest sum of DWARF sections that is read, in bytes; unpacked.
  private static let largest: UInt64 = 2 << 30

  private let dwarf: OpaquePointer
  private let commonDwarf: OpaquePointer?
  /// Own the sections that `dwarf` points into.
  let file: ObjectFile
  private let commonFile: ObjectFile?
  let units: IntervalIndex<Int>
  private var entries: [Dwarf_Die]
  private var functions: [Int: IntervalIndex<Dwarf_Die>] = [:]
  private var variables: VariableIndex?
  private(set) var cost: Int

  struct Location {
    var file: String?
    var line: Int?
  }

  struct InlineFrame {
    /// As the source says it, unqualified.
    var name: UnsafePointer<CChar>?
    /// The assembler's name, mangled by the rules of the language.
    var linkageName: UnsafePointer<CChar>?
    var location: Location
    var inlined: Bool
  }

  /// Nil if the file has no usable DWARF.
  init?(file: ObjectFile, search: DebugFileSearch) {
    guard let dwarf = Self.open(file) else { return nil }
    var name: UnsafePointer<CChar>?
    var id: UnsafeRawPointer?
    let idSize = dwelf_dwarf_gnu_debugaltlink(dwarf, &name, &id)
    var common: (file: ObjectFile, dwarf: OpaquePointer)?
    if idSize > 0, let name {
      let buildID = [UInt8](UnsafeRawBufferPointer(start: id, count: idSize))
      let found = search.commonDebugFile(name: String(cString: name), buildID: buildID, referringFile: file)
      guard let found, let foundDwarf = Self.open(found) else {
        dwarf_end(dwarf)
        return nil
      }
      common = (found, foundDwarf)
      dwarf_setalt(dwarf, foundDwarf)
    }
    self.dwarf = dwarf
    self.file = file
    commonDwarf = common?.dwarf
    commonFile = common?.file
    (units, entries) = Self.readUnits(dwarf, limit: file.size)
    cost = Self.dwarfSize(file) + (common.map { Self.dwarfSize($0.file) } ?? 0) + units.cost
  }

  deinit {
    dwarf_end(dwarf)
    if let commonDwarf { dwarf_end(commonDwarf) }
  }

  private static func dwarfSections(_ file: ObjectFile) -> [ObjectFile.Section] {
    file.sections.filter { $0.type != SHT_NOBITS && ($0.name.hasPrefix(".debug_") || $0.name.hasPrefix(".zdebug_")) }
  }

  private static func dwarfSize(_ file: ObjectFile) -> Int {
    let sum = dwarfSections(file).reduce(UInt64(0)) { $0.addingReportingOverflow($1.unpackedSize).partialValue }
    return Int(clamping: sum)
  }

  static func isPresent(in file: ObjectFile) -> Bool {
    dwarfSections(file).contains { $0.name == ".debug_info" || $0.name == ".zdebug_info" }
  }

  private static func open(_ file: ObjectFile) -> OpaquePointer? {
    guard isPresent(in: file) else { return nil }
    var sum: UInt64 = 0
    for section in dwarfSections(file) {
      let (next, overflow) = sum.addingReportingOverflow(section.unpackedSize)
      guard !overflow, next <= largest else { return nil }
      sum = next
    }
    // libdw reads a string to its zero, also past the end of a section that was damaged.
    for section in dwarfSections(file)
    where section.name.hasSuffix("debug_str") || section.name.hasSuffix("debug_line_str") {
      file.terminate(section)
    }
    return dwarf_begin_elf(file.elf, DWARF_C_READ, nil)
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
        cost -= variables?.cost ?? 0
        variables = VariableIndex(units: entries, insideFunctions: insideFunctions, limit: Self.mostEntries)
        cost += variables?.cost ?? 0
      }
      let index = isThreadLocal ? variables?.threadLocal : variables?.ordinary
      if let found = index?.innermost(at: address) {
        return Self.describe(found.payload, at: address - found.start + distance)
      }
    }
    return nil
  }

  /// The part of a variable that holds the byte `offset` bytes from its start.
  private static func describe(_ variable: VariableEntry, at offset: UInt64) -> Variable {
    let linkageName =
      string(DW_AT_linkage_name, of: variable.entry) ?? string(DW_AT_MIPS_linkage_name, of: variable.entry)
    let source = string(DW_AT_name, of: variable.entry).map { variable.scope + String(cString: $0) }
    var name = source ?? "(unnamed)"
    if let linkageName {
      let full = demangled(cString: linkageName)
      if full != String(cString: linkageName) || source == nil { name = full }
    }
    return describe(variable.entry, named: name, at: offset)
  }

  static func describe(_ entry: Dwarf_Die, named name: String, at offset: UInt64) -> Variable {
    var entry = entry
    var unit = Dwarf_Die()
    let language = dwarf_diecu(&entry, &unit, nil, nil) == nil ? nil : Int(dwarf_srclang(&unit))
    var walk = TypeWalk(language: language)
    var part = VariablePart(path: name, type: nil, offset: offset)
    if let type = TypeWalk.type(ofVariable: entry) { part = walk.part(of: type, at: offset, path: name) }
    var line: Int32 = 0
    let hasLine = dwarf_decl_line(&entry, &line) == 0 && line > 0
    let file = (dwarf_decl_file(&entry) ?? primaryFile(&entry)).map { String(cString: $0) }
    return Variable(
      path: part.path, type: part.type, offset: part.offset, size: part.size, isPadding: part.isPadding,
      alternatives: part.alternatives, file: file == "???" ? nil : file, line: hasLine ? Int(line) : nil)
  }

  /// The unit's own file, if the entry is declared there as DWARF 5 has it: by the number 0, which libdw takes for none.
  private static func primaryFile(_ entry: inout Dwarf_Die) -> UnsafePointer<CChar>? {
    var attribute = Dwarf_Attribute()
    var number: Dwarf_Word = 0
    var version: Dwarf_Half = 0
    var unit = Dwarf_Die()
    var files: OpaquePointer?
    guard dwarf_attr_integrate(&entry, UInt32(DW_AT_decl_file), &attribute) != nil,
      dwarf_formudata(&attribute, &number) == 0, number == 0,
      dwarf_cu_info(entry.cu, &version, nil, nil, nil, nil, nil, nil) == 0, version >= 5,
      dwarf_diecu(&entry, &unit, nil, nil) != nil, dwarf_getsrcfiles(&unit, &files, nil) == 0
    else { return nil }
    return dwarf_filesrc(files, 0, nil, nil)
  }

  // MARK: units

  private static func readUnits(_ dwarf: OpaquePointer, limit: Int) -> (IntervalIndex<Int>, [Dwarf_Die]) {
    var entries: [Dwarf_Die] = []
    var intervals: [IntervalIndex<Int>.Interval] = []
    var unit: OpaquePointer?
    var next: OpaquePointer?
    var type: UInt8 = 0
    var entry = Dwarf_Die()
    // The last argument stays null: libdw would open the .dwo file that the unit names.
    while dwarf_get_units(dwarf, unit, &next, nil, &type, &entry, nil) == 0 {
      unit = next
      guard Int(type) == DW_UT_compile || Int(type) == DW_UT_skeleton else { continue }
      let index = entries.count
      entries.append(entry)
      forEachRange(&entry, limit: limit - intervals.count) { start, end in
        intervals.append(.init(start: start, end: end, payload: index))
      }
    }
    return (IntervalIndex(intervals) { $0.end < $1.end }, entries)
  }

  /// Calls `body` with at most `limit` ranges. Each takes two bytes or more of a section, so an honest file's are never
  /// more than it has bytes; entries of a hostile one may all name the same list.
  private static func forEachRange(_ entry: inout Dwarf_Die, limit: Int, _ body: (UInt64, UInt64) -> Void) {
    var offset = 0
    var base: UInt64 = 0
    var start: UInt64 = 0
    var end: UInt64 = 0
    var remaining = limit
    while remaining > 0 {
      offset = dwarf_ranges(&entry, offset, &base, &start, &end)
      if offset <= 0 { return }
      body(start, end)
      remaining -= 1
    }
  }

  // MARK: functions

  /// The functions of a unit by their addresses.
  mutating func functions(ofUnit index: Int) -> IntervalIndex<Dwarf_Die> {
    if let known = functions[index] { return known }
    var intervals: [IntervalIndex<Dwarf_Die>.Interval] = []
    var remaining = file.size
    var open: [Dwarf_Die] = []
    var entry = entries[index]
    var next = Dwarf_Die()
    walk: while remaining > 0 {
      remaining -= 1
      if Int(dwarf_tag(&entry)) == DW_TAG_subprogram {
        let function = entry
        Self.forEachRange(&entry, limit: file.size - intervals.count) { start, end in
          intervals.append(.init(start: start, end: end, payload: function))
        }
      }
      if open.count < Self.deepest, Self.mayHoldFunctions(&entry), dwarf_child(&entry, &next) == 0 {
        open.append(entry)
        entry = next
        continue
      }
      while dwarf_siblingof(&entry, &next) != 0 {
        guard open.count > 1 else { break walk }
        entry = open.removeLast()
      }
      if open.isEmpty { break }
      entry = next
    }
    let result = IntervalIndex(intervals) { $0.end < $1.end }
    functions[index] = result
    cost += result.cost
    return result
  }

  private static func mayHoldFunctions(_ entry: inout Dwarf_Die) -> Bool {
    switch Int(dwarf_tag(&entry)) {
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
    guard let index = units.innermost(at: address)?.payload else { return [] }
    var location = sourceLine(ofUnit: index, at: address)
    guard let function = functions(ofUnit: index).innermost(at: address) else {
      return location.file == nil
        ? [] : [InlineFrame(name: nil, linkageName: nil, location: location, inlined: false)]
    }
    var chain = [function.payload]
    appendInlined(at: address, below: function.payload, depth: 0, to: &chain)
    var result: [InlineFrame] = []
    for (position, entry) in chain.enumerated().reversed() {
      result.append(
        InlineFrame(
          name: Self.string(DW_AT_name, of: entry),
          linkageName: Self.string(DW_AT_linkage_name, of: entry) ?? Self.string(DW_AT_MIPS_linkage_name, of: entry),
          location: location, inlined: position > 0))
      location = callSite(entry, unit: index)
    }
    return result
  }

  /// Appends the inlined calls that hold `address`, outermost first.
  private func appendInlined(at address: UInt64, below parent: Dwarf_Die, depth: Int, to chain: inout [Dwarf_Die]) {
    guard depth < Self.deepest else { return }
    var parent = parent
    var entry = Dwarf_Die()
    guard dwarf_child(&parent, &entry) == 0 else { return }
    var remaining = file.size
    while remaining > 0 {
      remaining -= 1
      let tag = Int(dwarf_tag(&entry))
      let isInlined = tag == DW_TAG_inlined_subroutine
      if isInlined || tag == DW_TAG_lexical_block || tag == DW_TAG_try_block || tag == DW_TAG_catch_block,
        dwarf_haspc(&entry, address) > 0
      {
        if isInlined { chain.append(entry) }
        appendInlined(at: address, below: entry, depth: depth + 1, to: &chain)
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
    guard dwarf_attr_integrate(&entry, UInt32(attribute), &found) != nil else { return nil }
    return dwarf_formstring(&found)
  }

  private mutating func sourceLine(ofUnit index: Int, at address: UInt64) -> Location {
    guard let line = dwarf_getsrc_die(&entries[index], address) else { return Location() }
    var number: Int32 = 0
    guard let file = dwarf_linesrc(line, nil, nil), dwarf_lineno(line, &number) == 0 else { return Location() }
    // Line 0 is the compiler's way to say that an instruction belongs to no line.
    guard let path = path(file, unit: index) else { return Location() }
    return Location(file: path, line: number > 0 ? Int(number) : nil)
  }

  /// Where an inlined function was called.
  private mutating func callSite(_ entry: Dwarf_Die, unit index: Int) -> Location {
    var entry = entry
    var attribute = Dwarf_Attribute()
    var value: Dwarf_Word = 0
    var location = Location()
    if dwarf_attr(&entry, UInt32(DW_AT_call_line), &attribute) != nil, dwarf_formudata(&attribute, &value) == 0,
      value > 0
    {
      location.line = Int(exactly: value)
    }
    var files: OpaquePointer?
    var count = 0
    if dwarf_attr(&entry, UInt32(DW_AT_call_file), &attribute) != nil, dwarf_formudata(&attribute, &value) == 0,
      dwarf_getsrcfiles(&entries[index], &files, &count) == 0, value < UInt64(count),
      let file = dwarf_filesrc(files, Int(value), nil, nil)
    {
      location.file = path(file, unit: index)
    }
    return location
  }

  /// Absolute, if the unit says in which directory it was compiled. Nil where there is no file: libdw writes "???"
  /// for a broken table, compilers write "<compiler-generated>" and the like for code that nobody wrote.
  private mutating func path(_ name: UnsafePointer<CChar>, unit index: Int) -> String? {
    let path = String(cString: name)
    if path.isEmpty || path == "???" || path.utf8.last == UInt8(ascii: ">") { return nil }
    var attribute = Dwarf_Attribute()
    guard path.utf8.first != UInt8(ascii: "/"),
      dwarf_attr(&entries[index], UInt32(DW_AT_comp_dir), &attribute) != nil,
      let directory = dwarf_formstring(&attribute), directory[0] != 0
    else { return path }
    return "\(String(cString: directory))/\(path)"
  }
}
