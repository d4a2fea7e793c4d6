// SPDX-License-Identifier: Apache-2.0
// The list of processes: its orders, and a table that fits 80 columns whatever is in it.

import ByteText
import Glibc
import SystemAccess
import TestSupport
import Testing

@testable import Answers

@Suite("Orders of processes", .bounded)
struct ProcessOrderTests {
  private static let start = (seconds(of: CLOCK_REALTIME) - 1000).rounded()

  private static func process(
    _ id: Int32, state: IndexedProcess.State = .live, started: Double = 1000, ended: Double? = nil, blocks: UInt64 = 0,
    bytes: UInt64? = nil, command: ForeignText = "/usr/bin/server"
  ) -> IndexedProcess {
    var process = IndexedProcess(
      processID: id, state: state, userID: 0, command: [command], startTime: 1, started: start + started,
      segmentBytes: UInt64(id) << 20, path: "/dev/shm/x", lostBlocks: UInt64(id % 3))
    (process.ended, process.liveBlocks, process.liveBytes) = (ended.map { start + $0 }, blocks, bytes)
    if state == .live { process.parentID = 1 }
    return process
  }

  private static let some = [
    process(3, started: 30, blocks: 1, bytes: 10, command: "/bin/b"),
    process(1, state: .dead, started: 10, ended: 40, blocks: 5, bytes: 3, command: "/bin/c"),
    process(2, state: .exited, started: 20, ended: 50, blocks: 3, bytes: 7, command: "/bin/a"),
  ]

  @Test(
    "each order, with equals by process id",
    arguments: [
      (ProcessOrder.pid, [1, 2, 3]), (.start, [3, 2, 1]), (.end, [3, 2, 1]), (.index, [3, 2, 1]), (.blocks, [1, 2, 3]),
      (.bytes, [3, 2, 1]), (.lost, [2, 1, 3]), (.command, [2, 3, 1]),
    ] as [(ProcessOrder, [Int32])])
  func orders(order: ProcessOrder, ids: [Int32]) {
    #expect(ProcessList(Self.some, ProcessSelection(order: order)).processes.map(\.processID) == ids)
    #expect(ProcessList(Self.some, ProcessSelection(isLiveOnly: true, order: order)).processes.map(\.processID) == [3])
  }

  @Test("the table has the column that is its order, and what nobody has is left out")
  func columns() {
    let byBytes = ProcessList(Self.some, ProcessSelection(order: .bytes)).text
    #expect(byBytes.hasPrefix("PID  STATE   USER"), "\(byBytes)")
    #expect(byBytes.contains("BYTES") && !byBytes.contains("BLOCKS"))
    let live = ProcessList(Self.some, ProcessSelection(isLiveOnly: true)).text
    #expect(!live.contains("ENDED") && live.contains("PARENT") && live.hasSuffix("  b\n"), "\(live)")
  }

  @Test("a title stands for the command; a line has 80 columns, and where room is short, columns go and it stays")
  func narrow() {
    var processes = Self.some
    processes[0].title = "server: worker 3 [idle] on 127.0.0.1:8080, with a title that is longer than any line can show"
    processes[0].processID = 4_194_303
    processes[0].parentID = 4_194_302
    processes[1].state = .notPermitted
    processes[1].lostBlocks = 123_456_789_012
    processes[2].liveBlocks = .max
    for order in [nil] + ProcessOrder.allCases.map(Optional.some) {
      let text = ProcessList(processes, ProcessSelection(order: order)).text
      let lines = text.split(separator: "\n")
      #expect(lines.allSatisfy { TextLayout.width($0) <= 80 }, "\(text)")
      #expect(text.contains("server: w") && text.contains("COMMAND"), "\(text)")
    }
    let json = ProcessList(processes, ProcessSelection(order: .pid)).json
    #expect(json.contains("\"parent\":4194302,\"title\":\"server: worker 3 [idle]"))
    #expect(json.contains("\"ended\":\(UInt64(Self.start) + 40),"))
  }

  @Test("rough durations have one unit", arguments: [(0.0371, "37 ms"), (59, "59 s"), (200, "3 min"), (90_000, "1 d")])
  func rough(seconds: Double, text: String) { #expect(Units.roughDuration(seconds) == text) }
}
