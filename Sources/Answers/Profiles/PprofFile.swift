// SPDX-License-Identifier: Apache-2.0
// A heap profile of pprof (proto/profile.proto of github.com/google/pprof), compressed by gzip as its readers expect:
// `go tool pprof`, Grafana Pyroscope, Parca, Perfetto.
//
// - Sample types are those of Go's heap profiles, in their order: alloc_objects and alloc_space, what was ever
//   allocated, where that is known; inuse_objects and inuse_space, what lives. The last is shown first.
// - A location is the address of a call, one byte below the return address, in the mapping of its module; its lines are
//   the functions inlined there, innermost first. Names are found already, and stand in the profile.
// - The function that was called (malloc) is left out, as in the profiles of other allocators: the innermost location
//   is its caller.
// - The checks of readers (CheckValid of profile.go) hold for every profile: a sample has as many values as there are
//   types; ids are not 0, not given twice, and not dangling; the first text is empty; the first mapping is the program.

import Bounds
import ByteText
import CPprof
import IndexReader
import Provenance
import Symbols

struct PprofFile {
  private struct Place: Hashable {
    var pc: UInt64
    var module: ForeignText?
    /// Whether `pc` is an instruction, not a return address.
    var isExact: Bool
  }
  private struct Name: Hashable {
    var function: String
    var file: String
  }

  private let sums: StackSums
  private let storage = MessageStorage()
  private var texts = Numbering([""])
  private var functions: [UnsafeMutablePointer<Pprof__Function>?] = []
  private var functionIDs: [Name: UInt64] = [:]
  private var locations: [UnsafeMutablePointer<Pprof__Location>?] = []
  private var locationIDs: [Place: UInt64] = [:]
  /// The location of each call of the sums, by the call's number; 0 as long as it has none.
  private var callLocations: [UInt64]
  private var samples: [UnsafeMutablePointer<Pprof__Sample>?] = []
  private let modules: [Module]
  /// The paths of modules of which a function is named.
  private var namedModules: Set<ForeignText> = []
  private let share = MemoryShare()

  /// The bytes of the file.
  static func render(_ sums: StackSums) -> [UInt8] {
    var file = PprofFile(sums)
    let bytes = file.pack()
    // Readers take a profile that is not compressed, too.
    return GzipFile.compress(bytes) ?? bytes
  }

  init(_ sums: StackSums) {
    self.sums = sums
    callLocations = [UInt64](repeating: 0, count: sums.rows.stacks.calls.count)
    modules = sums.modules.sorted { ($0.isMain ? 0 : 1, $0.index) < ($1.isMain ? 0 : 1, $1.index) }
  }

  /// The bytes of the profile, not compressed.
  mutating func pack() -> [UInt8] {
    let names =
      (sums.hasTotals ? [("alloc_objects", "count"), ("alloc_space", "bytes")] : []) + [
        ("inuse_objects", "count"), ("inuse_space", "bytes"),
      ]
    let types = names.map { Optional(valueType($0.0, $0.1)) }
    var meter = BudgetMeter(interval: 16)
    for entry in sums.rows.entries {
      guard meter.goesOn() else { break }
      append(entry)
      share.hold(storage.bytes &+ texts.items.count &* 128)
    }
    let profile = storage.message(pprof__profile__init)
    (profile.pointee.n_sample_type, profile.pointee.sample_type) = storage.list(of: types)
    (profile.pointee.n_sample, profile.pointee.sample) = storage.list(of: samples)
    let mappings = modules.enumerated().map { Optional(mapping($1, id: UInt64(clamping: $0 &+ 1))) }
    (profile.pointee.n_mapping, profile.pointee.mapping) = storage.list(of: mappings)
    (profile.pointee.n_location, profile.pointee.location) = storage.list(of: locations)
    (profile.pointee.n_function, profile.pointee.function) = storage.list(of: functions)
    (profile.pointee.has_time_nanos, profile.pointee.time_nanos) = (
      1, Int64(exactly: (sums.look.now * 1e9).rounded()) ?? 0
    )
    profile.pointee.period_type = valueType("space", "bytes")
    // Every block is counted: a sample stands for one byte.
    (profile.pointee.has_period, profile.pointee.period) = (1, 1)
    (profile.pointee.has_default_sample_type, profile.pointee.default_sample_type) = (1, text("inuse_space"))
    let comments = ([sums.profileTitle] + sums.losses.phrases).map { text($0) }
    (profile.pointee.n_comment, profile.pointee.comment) = (comments.count, storage.list(comments))
    // All texts have been met now.
    (profile.pointee.n_string_table, profile.pointee.string_table) = (
      texts.items.count, storage.list(texts.items.map { storage.text($0) })
    )
    let size = pprof__profile__get_packed_size(profile)
    // The bytes, and what they are compressed to.
    guard share.hold(storage.bytes &+ texts.items.count &* 128 &+ size &* 2) else { return [] }
    return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      count = pprof__profile__pack(profile, buffer.baseAddress)
    }
  }

  private mutating func text(_ text: String) -> Int64 {
    Int64(clamping: texts.number(of: text))
  }

  private mutating func valueType(_ type: String, _ unit: String) -> UnsafeMutablePointer<Pprof__ValueType> {
    let message = storage.message(pprof__value_type__init)
    (message.pointee.has_type, message.pointee.type) = (1, text(type))
    (message.pointee.has_unit, message.pointee.unit) = (1, text(unit))
    return message
  }

  private mutating func append(_ row: StackSums.Rows.Entry) {
    let numbers = sums.rows.stacks.numbers(of: row.stack)
    var ids: [UInt64] = []
    ids.reserveCapacity(numbers.count &+ 1)
    for number in numbers {
      let place = Int(number)  // bounded: an index of the calls
      if callLocations[place] == 0 {
        let call = sums.rows.stacks.calls[place]
        callLocations[place] = location(call.frames, isExact: call.isExact)
      }
      ids.append(callLocations[place])
    }
    if row.stack.truncation != nil || numbers.isEmpty { ids.append(location([], isExact: false)) }
    let sample = storage.message(pprof__sample__init)
    (sample.pointee.n_location_id, sample.pointee.location_id) = (ids.count, storage.list(ids))
    let totals = sums.hasTotals ? [row.allocated?.blocks ?? 0, row.allocated?.bytes ?? 0] : []
    let values = (totals + [row.total.blocks, row.total.bytes]).map { Int64(clamping: $0) }
    (sample.pointee.n_value, sample.pointee.value) = (values.count, storage.list(values))
    samples.append(sample)
  }

  /// `frames`: of one call; none for the callers that are not known.
  private mutating func location(_ frames: [Frame], isExact: Bool) -> UInt64 {
    let place = Place(pc: frames.first?.pc ?? 0, module: frames.first?.module, isExact: isExact)
    if let id = locationIDs[place] { return id }
    let id = UInt64(clamping: locations.count &+ 1)
    locationIDs[place] = id
    let message = storage.message(pprof__location__init)
    (message.pointee.has_id, message.pointee.id) = (1, id)
    if place.pc != 0 {
      let address = isExact ? place.pc : place.pc &- 1
      (message.pointee.has_address, message.pointee.address) = (1, address)
      let holder = modules.lastIndex { $0.path == place.module && $0.start <= address && address < $0.end }
      if let holder {
        (message.pointee.has_mapping_id, message.pointee.mapping_id) = (1, UInt64(clamping: holder &+ 1))
      }
    }
    if let module = place.module, frames.contains(where: { $0.function != nil }) { namedModules.insert(module) }
    // An address without a name has no line: a reader that has the module's file may find one.
    var lines = frames.filter { $0.function != nil }.map { line($0.profileName, $0.file, $0.line) }
    if frames.isEmpty { lines = [line("[callers not known]", nil, nil)] }
    (message.pointee.n_line, message.pointee.line) = storage.list(of: lines)
    locations.append(message)
    return id
  }

  private mutating func line(
    _ function: String, _ file: ForeignText?, _ number: Int?
  ) -> UnsafeMutablePointer<Pprof__Line>? {
    let name = Name(function: function, file: file.map { TextLayout.printable($0) } ?? "")
    let id = functionIDs[name] ?? UInt64(clamping: functions.count &+ 1)
    if functionIDs[name] == nil {
      functionIDs[name] = id
      let message = storage.message(pprof__function__init)
      (message.pointee.has_id, message.pointee.id) = (1, id)
      (message.pointee.has_name, message.pointee.name) = (1, text(name.function))
      (message.pointee.has_system_name, message.pointee.system_name) = (1, text(name.function))
      (message.pointee.has_filename, message.pointee.filename) = (1, text(name.file))
      functions.append(message)
    }
    let message = storage.message(pprof__line__init)
    (message.pointee.has_function_id, message.pointee.function_id) = (1, id)
    if let number { (message.pointee.has_line, message.pointee.line) = (1, Int64(clamping: number)) }
    return message
  }

  private mutating func mapping(_ module: Module, id: UInt64) -> UnsafeMutablePointer<Pprof__Mapping> {
    let message = storage.message(pprof__mapping__init)
    (message.pointee.has_id, message.pointee.id) = (1, id)
    (message.pointee.has_memory_start, message.pointee.memory_start) = (1, module.start)
    (message.pointee.has_memory_limit, message.pointee.memory_limit) = (1, module.end)
    (message.pointee.has_file_offset, message.pointee.file_offset) = (1, 0)
    (message.pointee.has_filename, message.pointee.filename) = (1, text(TextLayout.printable(module.path)))
    let buildID = module.buildID.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    (message.pointee.has_build_id, message.pointee.build_id) = (1, text(buildID))
    // Names that are here need not be looked for.
    let isNamed = namedModules.contains(module.path)
    for field in [\Pprof__Mapping.has_functions, \.has_filenames, \.has_line_numbers, \.has_inline_frames] {
      message.pointee[keyPath: field] = isNamed ? 1 : 0
    }
    message.pointee.has_has_functions = 1
    message.pointee.has_has_filenames = 1
    message.pointee.has_has_line_numbers = 1
    message.pointee.has_has_inline_frames = 1
    return message
  }
}
