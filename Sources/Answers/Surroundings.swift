// What only /proc tells of a process, as of one moment: its mappings and the present names of its threads.

import ByteText
import IndexReader

/// The process beyond its segment.
final class Surroundings {
  private struct Reading {
    var maps: ProcessMaps?
    var absence: Answer.Note?
    var isAlive = false
  }

  private let reading: Reading
  /// Kept open for the time of a request; nil if there is no such process.
  let directory: ProcessDirectory?

  /// nil if they could not be read; `absence` says why.
  var maps: ProcessMaps? { reading.maps }
  var absence: Answer.Note? { reading.absence }
  /// Whether the process ran.
  var isAlive: Bool { reading.isAlive }

  /// Reads the mappings of the process that `view` is about, if it still runs that program.
  init(of view: ProcessView) {
    let directory: ProcessDirectory
    do throws(ProcError) {
      directory = try ProcessDirectory(processID: view.processID)
    } catch {
      self.directory = nil
      reading = error.isShortage ? Self.unread(view) : Reading(absence: .processEnded)
      return
    }
    reading = Self.read(view, directory)
    self.directory = consume directory
  }

  /// What is known where descriptors or memory are lacking to look.
  private static func unread(_ view: ProcessView) -> Reading {
    Reading(absence: .mappingsNotRead, isAlive: view.shared.segment.isProcessAlive)
  }

  private static func read(_ view: ProcessView, _ directory: borrowing ProcessDirectory) -> Reading {
    var reading = Reading()
    do throws(ProcError) {
      let stat = try directory.stat()
      // A process whose first thread ended goes on as a zombie with other threads.
      reading.isAlive = stat.startTime == view.startTime && (!stat.isEnded || stat.threadCount > 1)
      guard stat.startTime == view.startTime, !stat.isEnded else {
        reading.absence = .processEnded
        return reading
      }
      let maps = view.latestMaps.parse(try directory.read("maps"))
      // No mapping at all: the process is on its way out. Without its segment: it has executed another program, whose
      // memory has nothing to do with what the segment says.
      if maps.mappings.isEmpty {
        reading.absence = .processEnded
      } else if !maps.hasSegment(view) {
        reading.absence = .indexAbandoned
      } else {
        reading.maps = maps
      }
    } catch {
      if error.isShortage { return unread(view) }
      reading.absence = error.isPermission ? .mappingsNotPermitted : .processEnded
    }
    return reading
  }

  /// The name that thread `id` has now, if it exists and has run for at least `seconds`: a thread that was started later
  /// is another one with the same id.
  func name(ofThread id: UInt32, runningFor seconds: Double) -> String? {
    guard maps != nil else { return nil }
    guard let stat = try? directory?.stat("task/\(id)/stat") else { return nil }
    let running = SystemClock.sinceBoot() - Double(stat.startTime) / SystemClock.ticksPerSecond
    // Two ticks of each clock: 20 ms and 30 ms.
    guard running + 0.05 >= seconds, var name = try? directory?.line("task/\(id)/comm") else { return nil }
    if name.last == UInt8(ascii: "\n") { name.removeLast() }
    return name.isEmpty ? nil : String(reversibly: name)
  }
}

extension Surroundings {
  /// What the kernel put on the main thread's stack; nil if the caller may not know.
  func initialStack() -> InitialStack? {
    guard maps != nil else { return nil }
    switch directory {
    case .some(let directory): return InitialStack(directory)
    case .none: return nil
    }
  }

  /// The process that traces thread `id`, if one does.
  func tracer(ofThread id: UInt32) -> UInt32? {
    guard let status = try? directory?.read("task/\(id)/status") else { return nil }
    for line in String(decoding: status, as: UTF8.self).split(separator: "\n") where line.hasPrefix("TracerPid:") {
      let tracer = UInt32(line.split(whereSeparator: { $0 == "\t" || $0 == " " }).last ?? "") ?? 0
      return tracer == 0 ? nil : tracer
    }
    return nil
  }

  /// The threads that do not run just now, with where their stacks have their tops.
  func waitingThreads() -> [(id: UInt32, top: UInt64)] {
    // Gone meanwhile, or not permitted: then no stack is known.
    guard maps != nil, let ids = try? directory?.threadIDs() else { return [] }
    return ids.compactMap { id in directory?.stackPointer(ofThread: id).map { (id, $0) } }
  }
}

extension Mapping {
  /// Whether it is of the file of the view's segment, or of what goes with it.
  func isSegment(of view: ProcessView) -> Bool {
    isFile && (inode == view.inode && inode != 0 || path.map { $0 == view.path.dropLast(4) + ".ctl" } ?? false)
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
