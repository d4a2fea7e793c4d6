// SPDX-License-Identifier: Apache-2.0
// The names of code that a process has made itself, from both files that JIT compilers write for perf: jitdump
// (JitDump.swift), which has times and is asked first, and the map of names (CodeMap.swift).
//
// A jitdump file may be anywhere. Its writer maps it with permission to execute, for perf to see; so the list of the
// process's mappings names it. It must be that very file (by its number), a regular file of the process's own user.

import Bounds
import ByteText
import FileFacts
import Synchronization

/// The names of code that one process has made. Thread-safe.
public final class MadeCode: Sendable {
  private struct State {
    var dump = JitDump()
    /// Of all that may be taken, the bytes that this one has.
    var room = 0
    /// The file, as of the last look.
    var file: FileState?
    /// Seconds of CLOCK_MONOTONIC.
    var lookedAt = Int.min
    /// When the mappings are read again, where there was no such file among them.
    var searchedAt = Int.min
    var marker: ProcessFiles.Marker?
  }

  /// Seconds between two looks at a file, and between two at all mappings.
  private static let (interval, searchInterval) = (1, 10)
  /// Memory is taken in such pieces.
  private static let piece = 1 << 20

  private let process: ModuleReference.Process
  private let innerID: Int32
  private let map: CodeMap
  private let state = Mutex(State())

  /// `innerID`: the process's id as it knows it, which its files are called by.
  public init(of process: ModuleReference.Process, innerID: Int32) {
    self.process = process
    self.innerID = innerID
    map = CodeMap(of: process, innerID: innerID)
  }

  /// The functions that have been at `address`, the earliest first; empty if none is known. Where no times are, the
  /// last one is there now.
  public func functions(at address: UInt64) -> [MadeFunction] {
    let dumped = state.withLock { state in
      let now = Symbolizer.monotonicSeconds()
      if state.lookedAt == .min || now &- state.lookedAt >= Self.interval {
        state.lookedAt = now
        refresh(&state, now)
        if Budget.hasEnded { state.lookedAt = .min }
      }
      return state.dump.functions(at: address)
    }
    if !dumped.isEmpty { return dumped }
    return map.name(at: address).map { [MadeFunction(name: $0, time: nil)] } ?? []
  }

  private func refresh(_ state: inout State, _ now: Int) {
    // What has been read holds for the process also when that has ended.
    guard let files = ProcessFiles(process), files.isSameProcess else { return }
    if state.marker == nil, state.searchedAt == .min || now &- state.searchedAt >= Self.searchInterval {
      state.searchedAt = now
      state.marker = files.jitMarker(of: innerID)
    }
    guard let marker = state.marker else { return }
    guard let file = files.jitDump(marker) else {
      state.marker = nil
      return giveUp(&state)
    }
    if let known = state.file {
      guard known != file.state || state.dump.isCut else { return }
      // Another file, or one that was cut: what was read does not hold.
      if known.device != file.state.device || known.inode != file.state.inode || file.size < state.dump.place {
        giveUp(&state)
      }
    }
    state.file = file.state
    var room = state.room
    let before = room
    state.dump.read(file, processID: innerID) { cost in
      while cost > room {
        guard Budget.spendCurrent(bytes: Self.piece), CodeMap.take(Self.piece) else { return false }
        room &+= Self.piece
      }
      return true
    }
    state.room = room
    // Memory that stays is not the question's.
    Budget.current?.giveBack(bytes: room &- before)
  }

  private func giveUp(_ state: inout State) {
    state.dump = JitDump()
    state.file = nil
    CodeMap.giveBack(state.room)
    state.room = 0
  }

  deinit { state.withLock { giveUp(&$0) } }
}
