// SPDX-License-Identifier: Apache-2.0
// The facts that only /proc tells of a process, as of one moment: its mappings and the present names of its threads.

import Bounds
import ByteText
import IndexReader

/// The process as /proc shows it.
final class Surroundings {
  private struct Reading {
    /// All mappings; nil if they were not read.
    var maps: ProcessMaps?
    /// The mappings that were asked for, where that was enough; nil if `maps` is there, or nothing can be read.
    var asked: ProcessMaps?
    var absence: Answer.Note?
    var isAlive = false
    /// A live thread, by whose id /proc shows the process's files.
    var task: Int32?
  }

  private let view: ProcessView
  private var reading: Reading
  /// The process's directory in /proc, kept open for the time of a request; nil if there is no such process.
  let directory: ProcessDirectory?
  /// Whether the process is in a pid namespace of its own: then its threads have other ids here than in the segment.
  private let hasOtherIDs: Bool

  /// All mappings; nil if they could not be read: `absence` says why. Where only some were asked for, the others are
  /// read now.
  var maps: ProcessMaps? {
    readAll()
    return reading.maps
  }
  /// The mappings that are known without further reading.
  var knownMaps: ProcessMaps? { reading.maps ?? reading.asked }
  /// Whether these are some of all.
  var knowsSome: Bool { reading.asked != nil }
  var absence: Answer.Note? { reading.absence }
  /// The threads that exist; empty if they may not be listed.
  private(set) lazy var threadIDs: Set<UInt32> = {
    switch directory {
    case .some(let directory): Set((try? directory.threadIDs()) ?? [])
    case .none: []
    }
  }()
  /// Whether the process ran.
  var isAlive: Bool { reading.isAlive }
  /// The id of a live thread, under which /proc has the process's files and its root.
  var readableID: Int32? { reading.task }

  /// Whether the process runs, and writes to this index.
  var isWriting: Bool { isAlive && absence != .indexAbandoned }

  /// Reads the mappings of the process that `view` is about, if it still runs that program. `addresses`: the question
  /// is about these few, and their mappings are likely to be enough.
  init(of view: ProcessView, about addresses: [UInt64] = []) {
    self.view = view
    var ended = Reading(absence: .processEnded)
    do throws(ProcError) {
      let directory = try ProcessDirectory(of: view.shared.segment.process)
      let reading = Self.ask(view, directory, addresses) ?? Self.read(view, directory)
      if reading.isAlive {
        self.reading = reading
        self.directory = consume directory
        hasOtherIDs = false
        return
      }
    } catch {
      if error.isShortage { ended = Self.unread(view) }
    }
    // The process's own id may mean another process here, or none.
    if !ended.isAlive, view.shared.segment.isLockedByProcess {
      if let directory = ProcessDirectory(elsewhere: view.shared.segment.process) {
        reading = Self.read(view, directory)
        self.directory = consume directory
        hasOtherIDs = true
        return
      }
      ended = Reading(absence: .processNotVisible, isAlive: true)
    }
    reading = ended
    directory = nil
    hasOtherIDs = false
  }

  /// The reading where descriptors or memory are short.
  private static func unread(_ view: ProcessView) -> Reading {
    Reading(absence: .mappingsNotRead, isAlive: view.shared.segment.isProcessAlive)
  }

  /// Reads all mappings, where only some were asked for.
  private func readAll() {
    guard knowsSome else { return }
    switch directory {
    case .some(let directory): reading = Self.read(view, directory)
    case .none: reading.asked = nil
    }
  }

  /// The reading with the mappings that hold `addresses`, and those right above anonymous ones, which show a thread's
  /// arena. Nil where that is not possible, or an address is in no mapping: then all mappings are read.
  private static func ask(
    _ view: ProcessView, _ directory: borrowing ProcessDirectory, _ addresses: [UInt64]
  ) -> Reading? {
    guard !addresses.isEmpty, let start = view.latestMaps.segmentStart, directory.found?.isEnded == false else {
      return nil
    }
    var found: [Mapping] = []
    do throws(ProcError) {
      let query = try directory.mappingQuery()
      // As for all mappings: a process that does not map its segment has executed another program.
      guard let own = try query.mapping(at: start).map({ Mapping($0) }), own.isStart(of: view.shared.segment) else {
        return nil
      }
      var held: [Mapping] = []
      for address in addresses where !held.contains(where: { $0.contains(address) }) {
        guard let mapping = try query.mapping(at: address).map({ Mapping($0) }) else { return nil }
        held.append(mapping)
        // It may have been found as the one above another.
        if !found.contains(where: { $0.contains(address) }) { found.append(mapping) }
        if mapping.isAnonymous, !found.contains(where: { $0.contains(mapping.end) }),
          let above = try query.mapping(at: mapping.end)
        {
          found.append(Mapping(above))
        }
      }
    } catch {
      return nil
    }
    let maps = ProcessMaps(found)
    // A mapping that has changed between two questions.
    guard zip(maps.mappings, maps.mappings.dropFirst()).allSatisfy({ $0.end <= $1.start }) else { return nil }
    view.latestMaps.areAsked = true
    var reading = Reading(isAlive: true)
    reading.asked = maps
    reading.task = directory.processID
    return reading
  }

  private static func read(
    _ view: ProcessView, _ directory: borrowing ProcessDirectory
  ) -> Reading {
    var reading = Reading()
    do throws(ProcError) {
      let stat = if let found = directory.found { found } else { try directory.stat() }
      // The first thread may have ended before the others.
      let task = stat.isEnded ? directory.liveTask() : UInt32(bitPattern: directory.processID)
      guard let task else {
        reading.absence = .processEnded
        return reading
      }
      reading.isAlive = true
      reading.task = Int32(bitPattern: task)
      let text = try directory.read("maps")
      Budget.current?.spend(bytes: text.count)
      defer { Budget.current?.giveBack(bytes: text.count) }
      let maps = view.latestMaps.parse(text)
      // A process without any mapping is on its way out. A process that does not map its segment has executed another
      // program, whose memory has nothing to do with the segment.
      if maps.mappings.isEmpty {
        reading.absence = .processEnded
      } else if let own = maps.mappings.first(where: { $0.isStart(of: view.shared.segment) }) {
        reading.maps = maps
        view.latestMaps.segmentStart = own.start
      } else {
        reading.absence = .indexAbandoned
      }
    } catch {
      if error.isShortage { return unread(view) }
      reading.absence = error.isPermission ? .mappingsNotPermitted : .processEnded
    }
    return reading
  }

  /// The line "stat" of a thread. That of the first one was read as the request began.
  private func stat(ofThread id: UInt32) -> ProcessStat? {
    switch directory {
    case .some(let directory):
      directory.processID == Int32(bitPattern: id) ? directory.found : try? directory.stat("task/\(id)/stat")
    case .none: nil
    }
  }

  /// The name that thread `id` has now, if it exists and has run for at least `seconds`: a thread that was started
  /// later is another thread with the same id.
  func name(ofThread id: UInt32, runningFor seconds: Double) -> ForeignText? {
    guard knownMaps != nil, !hasOtherIDs else { return nil }
    guard let stat = stat(ofThread: id) else { return nil }
    let running = SystemClock.sinceBoot() - Double(stat.startTime) / SystemClock.ticksPerSecond
    // Two ticks of each clock: 20 ms of the kernel's, 31 ms of the segment's.
    guard running + 0.05 >= seconds else { return nil }
    if let name = stat.name { return name.isEmpty ? nil : ForeignText(reversibly: name) }
    guard var name = try? directory?.line("task/\(id)/comm") else { return nil }
    if name.last == UInt8(ascii: "\n") { name.removeLast() }
    return name.isEmpty ? nil : ForeignText(reversibly: name)
  }
}

extension Surroundings {
  /// The part of the main thread's stack that the kernel filled; nil if the caller may not know.
  func initialStack() -> InitialStack? {
    guard maps != nil else { return nil }
    switch directory {
    case .some(let directory): return InitialStack(directory)
    case .none: return nil
    }
  }

  /// Whether threads have the same ids here as in the segment.
  var knowsThreads: Bool { !hasOtherIDs }

  /// The process that traces thread `id`, if one does.
  func tracer(ofThread id: UInt32) -> UInt32? {
    guard let status = try? directory?.read("task/\(id)/status") else { return nil }
    for line in String(decoding: status, as: UTF8.self).split(separator: "\n") where line.hasPrefix("TracerPid:") {
      guard let tracer = UInt32(line.split(whereSeparator: { $0 == "\t" || $0 == " " }).last ?? ""), tracer != 0 else {
        return nil
      }
      return tracer
    }
    return nil
  }

  /// The threads that do not run at this moment, with the tops of their stacks.
  func waitingThreads() -> [(id: UInt32, top: UInt64)] {
    // If the process is gone meanwhile, or its threads may not be read, no stack is known.
    guard maps != nil, !hasOtherIDs, let ids = try? directory?.threadIDs() else { return [] }
    var meter = BudgetMeter(interval: 1)
    var found: [(id: UInt32, top: UInt64)] = []
    for id in ids {
      guard meter.goesOn() else { break }
      if let top = directory?.stackPointer(ofThread: id) { found.append((id, top)) }
    }
    return found
  }
}

extension Mapping {
  /// The identity of the file, which on most file systems is the one that stat(2) tells.
  fileprivate var identity: FileNumber {
    FileNumber(major: device.major, minor: device.minor, inode: inode)
  }

  /// Whether the mapping is of the view's segment, or of its control file.
  func isSegment(of view: ProcessView) -> Bool {
    isFile && (identity == view.control || isWritten(as: view.shared.segment))
  }

  /// Whether the mapping is that of this segment's first bytes, for writing: the process writes the segment.
  fileprivate func isStart(of segment: borrowing Segment) -> Bool { offset == 0 && isWritten(as: segment) }

  /// Whether the mapping is of this segment and lets the process write to it. The file's name doesn't matter: the
  /// segment of a followed child had no name when it was mapped, and a directory may have been renamed, or have another
  /// name in another mount namespace.
  fileprivate func isWritten(as segment: borrowing Segment) -> Bool {
    guard inode == segment.identity.inode, inode != 0, permissions.hasPrefix("rw"), permissions.hasSuffix("s") else {
      return false
    }
    // Some file systems (btrfs, overlay) show another device here than in stat(2). Then the agent's mapping of the
    // file's start, hundreds of megabytes in one piece, is told by its size, and the mapping of an arena by its offset
    // in the file.
    return identity == segment.identity
      || (offset == 0 ? end &- start >= segment.fixedBytes : offset >= segment.fixedBytes)
  }
}

extension ProcessMaps {
  /// The mapping of a file at `index`; or, if memory there is anonymous, the mapping of a file that ends where the
  /// anonymous memory begins, as .bss follows .data.
  func file(behind index: Int) -> Mapping? {
    let mapping = mappings[index]
    if mapping.isFile { return mapping }
    guard mapping.isAnonymous, index > 0 else { return nil }
    let below = mappings[index &- 1]
    return below.end == mapping.start && below.isFile ? below : nil
  }
}
