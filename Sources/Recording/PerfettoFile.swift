// SPDX-License-Identifier: Apache-2.0
// A recording as a trace of Perfetto with heap profiles, for ui.perfetto.dev and its trace
// processor. The trace has the packets that heapprofd writes
// (protos/perfetto/trace/profiling/profile_packet.proto): one dump for each of a number of moments.
//
// A dump has, for every call stack, the bytes and blocks that were allocated and freed there so
// far. Names are interned once, before the first dump that needs them. Nothing is sampled: the
// sampling interval is one byte.

import Answers
import CPerfetto
import IndexReader
import Provenance
import SystemAccess

/// Writes the packets, one by one.
struct PerfettoFile: BlockRenderer {
  /// Moments of the recording that get a dump, at equal distances; the last of them is the end. The
  /// moment of the peak gets one as well. A dump holds every call stack, so the size of a trace
  /// grows with the number of stacks times the number of moments; and viewers show each dump as a
  /// mark to be clicked on.
  static let moments: UInt64 = 32
  /// Samples that a packet has at most: a dump with more of them is several packets.
  private static let samplesPerPacket = 1 << 16
  /// CLOCK_REALTIME and CLOCK_MONOTONIC, as Perfetto numbers clocks.
  private static let realtimeClock: UInt32 = 1
  private static let monotonicClock: UInt32 = 3

  private struct Sum {
    var allocated: UInt64 = 0
    var freed: UInt64 = 0
    var allocations: UInt64 = 0
    var frees: UInt64 = 0
  }
  private struct Code: Hashable {
    var pc: UInt64
    var module: UInt32?
    var function: ForeignText
  }

  private let recording: Recording
  private let moment: ExportedMoment?
  private let output: any ExportSink
  private var pending = MessageStorage()
  /// Names that were interned since the last packet, and go into the next.
  private var interned: UnsafeMutablePointer<Perfetto__InternedData>
  private var news = News()
  private struct News {
    var functions: [UnsafeMutablePointer<Perfetto__InternedString>?] = []
    var paths: [UnsafeMutablePointer<Perfetto__InternedString>?] = []
    var buildIDs: [UnsafeMutablePointer<Perfetto__InternedString>?] = []
    var mappings: [UnsafeMutablePointer<Perfetto__Mapping>?] = []
    var frames: [UnsafeMutablePointer<Perfetto__Frame>?] = []
    var callstacks: [UnsafeMutablePointer<Perfetto__Callstack>?] = []
  }
  private var functions: [ForeignText: UInt64] = [:]
  private var mappings: [UInt32: UInt64] = [:]
  private var frames: [Code: UInt64] = [:]
  /// Indices in `sums` of call stacks, by their innermost nodes. A call stack's number in the trace
  /// is its index plus 1.
  private var callstacks: [UInt32: Int] = [:]
  private var sums: [Sum] = []
  /// The memory of the names and sums.
  private let share = MemoryShare()
  private var packets: UInt64 = 0
  private var dumps: UInt64 = 0
  /// Stamps: between two moments, of the next moment, and of the peak, unless it has its dump.
  private let step: UInt64
  private var next: UInt64
  private var peak: UInt64?
  private let startStamp: UInt64
  private let endStamp: UInt64

  /// `wrappers` say nothing here: stacks are told whole.
  init(_ recording: Recording, at moment: ExportedMoment?, wrappers _: Wrappers, to output: any ExportSink) {
    self.recording = recording
    self.moment = moment
    self.output = output
    interned = pending.message(perfetto__interned_data__init)
    startStamp = moment?.stamp ?? recording.startStamp
    endStamp = moment?.stamp ?? max(recording.endStamp, startStamp)
    step = max(1, (endStamp &- startStamp) / Self.moments)
    next = startStamp &+ step
    // At the end there is a dump anyway.
    let peak = moment == nil ? max(recording.summary().peakStamp, startStamp) : endStamp
    self.peak = peak < endStamp ? peak : nil
  }

  mutating func render() throws(Complaint) {
    try writeProcess()
    try tellBlocks(of: recording, at: moment)
    if let peak { try dump(at: peak) }
    try dump(at: endStamp)
  }

  /// Writes the dumps of all moments before `stamp`.
  mutating func advance(to stamp: UInt64) throws(Complaint) {
    share.hold(pending.bytes &+ sums.count &* 128 &+ frames.count &* 128)
    // An event of the peak's stamp belongs to the peak.
    if let peak, stamp > peak {
      self.peak = nil
      if peak != next { try dump(at: peak) }
    }
    while stamp > next, next < endStamp {
      try dump(at: next)
      // Moments between which nothing happened have one dump.
      let (following, isPast) = next.addingReportingOverflow(step)
      next = isPast ? .max : max(following, stamp &- (stamp &- startStamp) % step)  // bounded: a step is 1 at least
    }
  }

  // MARK: sums

  mutating func begin(size: UInt64, node: UInt32, ticks: UInt32) -> (stack: Int, size: UInt64) {
    let stack = callstack(node, ticks)
    sums[stack].allocated &+= size
    sums[stack].allocations &+= 1
    return (stack, size)
  }

  mutating func end(_ block: (stack: Int, size: UInt64)) {
    sums[block.stack].freed &+= block.size
    sums[block.stack].frees &+= 1
  }

  // MARK: interned data

  private mutating func callstack(_ node: UInt32, _ ticks: UInt32) -> Int {
    if let known = callstacks[node] { return known }
    var ids: [UInt64] = []
    var walk = StackWalk(from: node)
    while let node = walk.next({ recording.node($0) }) {
      let call = CallAddress(node)
      let names = recording.names(at: call, ticks: ticks)
      let (functions, module) = (names.frames, names.module)
      for frame in functions {
        let function = frame.function ?? frame.placeName ?? ""
        ids.append(self.frame(Code(pc: call.pc, module: module?.index, function: function), module))
      }
    }
    // Readers take a call stack without a frame for damage.
    if ids.isEmpty { ids.append(frame(Code(pc: 0, module: nil, function: "[not known]"), nil)) }
    let index = sums.count
    callstacks[node] = index
    sums.append(Sum())
    let message = pending.message(perfetto__callstack__init)
    message.pointee.has_iid = 1
    message.pointee.iid = UInt64(clamping: index &+ 1)
    message.pointee.n_frame_ids = ids.count
    message.pointee.frame_ids = pending.list(ids.reversed())
    news.callstacks.append(message)
    return index
  }

  private mutating func frame(_ code: Code, _ module: Module?) -> UInt64 {
    if let known = frames[code] { return known }
    let id = UInt64(frames.count + 1)
    frames[code] = id
    let message = pending.message(perfetto__frame__init)
    (message.pointee.has_iid, message.pointee.iid) = (1, id)
    if !code.function.isEmpty {
      (message.pointee.has_function_name_id, message.pointee.function_name_id) = (1, function(code.function))
    }
    (message.pointee.has_mapping_id, message.pointee.mapping_id) = (1, mapping(module))
    (message.pointee.has_rel_pc, message.pointee.rel_pc) = (1, code.pc &- (module?.bias ?? 0))
    news.frames.append(message)
    return id
  }

  private mutating func function(_ name: ForeignText) -> UInt64 {
    if let known = functions[name] { return known }
    let id = UInt64(functions.count + 1)
    functions[name] = id
    news.functions.append(string(id, Array(name.escaped.utf8)))
    return id
  }

  /// The number of a module's mapping. Addresses in no module are in a mapping without a path.
  private mutating func mapping(_ module: Module?) -> UInt64 {
    let key = module?.index ?? .max
    if let known = mappings[key] { return known }
    let id = UInt64(mappings.count + 1)
    mappings[key] = id
    let message = pending.message(perfetto__mapping__init)
    (message.pointee.has_iid, message.pointee.iid) = (1, id)
    (message.pointee.has_build_id, message.pointee.build_id) = (1, id)
    news.buildIDs.append(string(id, module?.buildID ?? []))
    news.paths.append(string(id, Array((module?.path.escaped ?? "").utf8)))
    message.pointee.n_path_string_ids = 1
    message.pointee.path_string_ids = pending.list([id])
    if let module {
      (message.pointee.has_start, message.pointee.start) = (1, module.start)
      (message.pointee.has_end, message.pointee.end) = (1, module.end)
      (message.pointee.has_load_bias, message.pointee.load_bias) = (1, 0)
    }
    news.mappings.append(message)
    return id
  }

  private func string(_ id: UInt64, _ bytes: [UInt8]) -> UnsafeMutablePointer<Perfetto__InternedString> {
    let message = pending.message(perfetto__interned_string__init)
    (message.pointee.has_iid, message.pointee.iid) = (1, id)
    (message.pointee.has_str, message.pointee.str) = (1, pending.data(bytes))
    return message
  }

  /// Puts the new names into a packet.
  private mutating func intern(in packet: UnsafeMutablePointer<Perfetto__TracePacket>) {
    (interned.pointee.n_function_names, interned.pointee.function_names) = pending.list(of: news.functions)
    (interned.pointee.n_mapping_paths, interned.pointee.mapping_paths) = pending.list(of: news.paths)
    (interned.pointee.n_build_ids, interned.pointee.build_ids) = pending.list(of: news.buildIDs)
    (interned.pointee.n_mappings, interned.pointee.mappings) = pending.list(of: news.mappings)
    (interned.pointee.n_frames, interned.pointee.frames) = pending.list(of: news.frames)
    (interned.pointee.n_callstacks, interned.pointee.callstacks) = pending.list(of: news.callstacks)
    packet.pointee.interned_data = interned
    news = News()
  }

  // MARK: packets

  private mutating func writeProcess() throws(Complaint) {
    let clocks = pending.message(perfetto__clock_snapshot__init)
    let times = [
      (Self.monotonicClock, recording.process.monotonic), (Self.realtimeClock, recording.process.realtime),
    ].map { id, time in
      let clock = pending.message(perfetto__clock_snapshot__clock__init)
      (clock.pointee.has_clock_id, clock.pointee.clock_id) = (1, id)
      (clock.pointee.has_timestamp, clock.pointee.timestamp) = (1, time)
      return Optional(clock)
    }
    (clocks.pointee.n_clocks, clocks.pointee.clocks) = pending.list(of: times)
    clocks.pointee.has_primary_trace_clock = 1
    clocks.pointee.primary_trace_clock = Int32(Self.monotonicClock)
    try write(at: recording.process.monotonic) { $0.pointee.clock_snapshot = clocks }

    let process = pending.message(perfetto__process_tree__process__init)
    (process.pointee.has_pid, process.pointee.pid) = (1, recording.process.processID)
    process.pointee.n_cmdline = recording.process.command.count
    process.pointee.cmdline = pending.list(recording.process.command.map { pending.text($0.escaped) })
    let tree = pending.message(perfetto__process_tree__init)
    (tree.pointee.n_processes, tree.pointee.processes) = pending.list(of: [process])
    try write(at: recording.process.monotonic) { $0.pointee.process_tree = tree }
  }

  private mutating func dump(at stamp: UInt64) throws(Complaint) {
    var first = 0
    repeat {
      let last = min(first &+ Self.samplesPerPacket, sums.count)
      // bounded: `first` is below the count, or 0
      let samples = (first..<last).map { index in
        let sample = pending.message(perfetto__profile_packet__heap_sample__init)
        (sample.pointee.has_callstack_id, sample.pointee.callstack_id) = (1, UInt64(clamping: index &+ 1))
        (sample.pointee.has_self_allocated, sample.pointee.self_allocated) = (1, sums[index].allocated)
        (sample.pointee.has_self_freed, sample.pointee.self_freed) = (1, sums[index].freed)
        (sample.pointee.has_alloc_count, sample.pointee.alloc_count) = (1, sums[index].allocations)
        (sample.pointee.has_free_count, sample.pointee.free_count) = (1, sums[index].frees)
        return Optional(sample)
      }
      let heap = pending.message(perfetto__profile_packet__process_heap_samples__init)
      (heap.pointee.has_pid, heap.pointee.pid) = (1, UInt64(max(0, recording.process.processID)))
      (heap.pointee.has_timestamp, heap.pointee.timestamp) = (1, stamp)
      (heap.pointee.has_from_startup, heap.pointee.from_startup) = (1, recording.process.isFromStart ? 1 : 0)
      (heap.pointee.has_buffer_overran, heap.pointee.buffer_overran) = (1, recording.lostCount > 0 ? 1 : 0)
      (heap.pointee.has_sampling_interval_bytes, heap.pointee.sampling_interval_bytes) = (1, 1)
      heap.pointee.heap_name = pending.text("malloc")
      (heap.pointee.n_samples, heap.pointee.samples) = pending.list(of: samples)
      let profile = pending.message(perfetto__profile_packet__init)
      (profile.pointee.n_process_dumps, profile.pointee.process_dumps) = pending.list(of: [heap])
      (profile.pointee.has_index, profile.pointee.index) = (1, dumps)
      (profile.pointee.has_continued, profile.pointee.continued) = (1, last < sums.count ? 1 : 0)
      dumps += 1
      try write(at: stamp) { $0.pointee.profile_packet = profile }
      first = last
    } while first < sums.count
  }

  private mutating func write(
    at stamp: UInt64, _ fill: (UnsafeMutablePointer<Perfetto__TracePacket>) -> Void
  ) throws(Complaint) {
    let packet = pending.message(perfetto__trace_packet__init)
    (packet.pointee.has_timestamp, packet.pointee.timestamp) = (1, stamp)
    (packet.pointee.has_timestamp_clock_id, packet.pointee.timestamp_clock_id) = (1, Self.monotonicClock)
    (packet.pointee.has_trusted_packet_sequence_id, packet.pointee.trusted_packet_sequence_id) = (1, 1)
    (packet.pointee.has_sequence_flags, packet.pointee.sequence_flags) = (1, packets == 0 ? 1 : 2)
    packets += 1
    fill(packet)
    intern(in: packet)
    // Protobuf messages that follow each other are merged: a trace of many packets may be written
    // as traces of one packet each.
    let trace = pending.message(perfetto__trace__init)
    (trace.pointee.n_packet, trace.pointee.packet) = pending.list(of: [packet])
    let bytes = [UInt8](unsafeUninitializedCapacity: perfetto__trace__get_packed_size(trace)) { buffer, count in
      count = perfetto__trace__pack(trace, buffer.baseAddress)
    }
    try output.write(bytes)
    pending = MessageStorage()
    interned = pending.message(perfetto__interned_data__init)
  }
}

extension MessageStorage {
  fileprivate func data(_ bytes: [UInt8]) -> ProtobufCBinaryData {
    ProtobufCBinaryData(len: bytes.count, data: list(bytes))
  }
}
