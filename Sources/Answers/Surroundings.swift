// What only /proc tells of a process, as of one moment: its mappings and the present names of its threads.

import IndexReader

/// The process beyond its segment.
struct Surroundings {
  /// nil if they could not be read; `absence` says why.
  private(set) var maps: ProcessMaps?
  private(set) var absence: Answer.Note?
  private let processID: Int32

  /// Reads the mappings of the process that `view` is about, if it still runs that program.
  init(of view: ProcessView) {
    processID = view.processID
    guard view.processID > 0 else {
      absence = .processEnded
      return
    }
    do throws(ProcError) {
      let directory = try ProcessDirectory(processID: view.processID)
      let stat = try directory.stat()
      guard stat.startTime == view.startTime, !stat.isEnded else {
        absence = .processEnded
        return
      }
      let maps = ProcessMaps(text: try directory.read("maps"))
      // No mapping at all: the process is on its way out. Without its segment: it has executed another program, whose
      // memory has nothing to do with what the segment says.
      if maps.mappings.isEmpty {
        absence = .processEnded
      } else if !maps.hasSegment(view) {
        absence = .indexAbandoned
      } else {
        self.maps = maps
      }
    } catch {
      absence = error.isPermission ? .mappingsNotPermitted : .processEnded
    }
  }

  /// The name that thread `id` has now, if it exists and has run for at least `seconds`: a thread that was started later
  /// is another one with the same id.
  func name(ofThread id: UInt32, runningFor seconds: Double) -> String? {
    guard maps != nil else { return nil }
    do throws(ProcError) {
      let directory = try ProcessDirectory(processID: processID)
      let stat = try directory.stat("task/\(id)/stat")
      let running = SystemClock.sinceBoot() - Double(stat.startTime) / SystemClock.ticksPerSecond
      // Two ticks of each clock: 20 ms and 30 ms.
      guard running + 0.05 >= seconds else { return nil }
      var name = try directory.read("task/\(id)/comm", limit: 64)
      if name.last == UInt8(ascii: "\n") { name.removeLast() }
      return name.isEmpty ? nil : String(decoding: name, as: UTF8.self)
    } catch {
      return nil
    }
  }
}

extension Surroundings {
  /// The threads that do not run just now, by the mapping that their stack pointer is in.
  func waitingThreads() -> [Int: UInt32] {
    guard let maps else { return [:] }
    var threads: [Int: UInt32] = [:]
    do throws(ProcError) {
      let directory = try ProcessDirectory(processID: processID)
      for id in try directory.threadIDs() {
        guard let top = directory.stackPointer(ofThread: id), let index = maps.index(containing: top) else { continue }
        threads[index] = id
      }
    } catch {
      // Gone meanwhile, or not permitted: then no stack is known.
    }
    return threads
  }
}

extension ProcessMaps {
  /// Whether the process writes the segment of `view`. Not by device, which differs between views of some file systems.
  fileprivate func hasSegment(_ view: ProcessView) -> Bool {
    mappings.contains {
      $0.inode == view.inode && $0.inode != 0 && $0.permissions.hasPrefix("rw") && $0.path?.hasSuffix(".seg") == true
    }
  }

  /// The mapping of a file at `index`; or, if memory there is anonymous, the mapping of a file that ends where the anonymous
  /// memory begins, as .bss follows .data.
  func file(behind index: Int) -> Mapping? {
    let mapping = mappings[index]
    if mapping.isFile { return mapping }
    guard mapping.isAnonymous, index > 0 else { return nil }
    let below = mappings[index - 1]
    return below.end == mapping.start && below.isFile ? below : nil
  }
}
