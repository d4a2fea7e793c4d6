// SPDX-License-Identifier: Apache-2.0
// The drain loop against destinations of all kinds, both ways of writing.

import EventExport
import Foundation
import Glibc
import Synchronization
import SystemAccess
import TestSupport
import Testing

/// How the bytes are written: each test runs with both.
enum Method: CaseIterable, CustomTestStringConvertible {
  case ioUring, plain
  var testDescription: String { self == .ioUring ? "io_uring" : "plain writes" }
}

/// An end that a test waits for.
final class End: Sendable {
  private let value = Mutex<DeliveryEnd?>(nil)
  func set(_ end: DeliveryEnd) { value.withLock { $0 = end } }
  var known: DeliveryEnd? { value.withLock { $0 } }

  /// Waits for it.
  func wait() throws -> DeliveryEnd {
    try TestSupport.wait(for: "the export ends") { known != nil }
    return known!
  }
}

func exporter(_ method: Method) throws -> EventExporter {
  try EventExporter(allowIOUring: method == .ioUring)
}

func request(
  _ script: Script, _ end: End, _ destination: consuming Destination, key: String = "process",
  policy: DeliveryPolicy = .overwrite, buffer: Int = 1 << 20, waitsForSpace: Bool = false
) -> ExportRequest {
  ExportRequest(
    subscriber: RecordStream { end.set($0) }, key: key, policy: policy, destination: destination, bufferBytes: buffer,
    waitsForSpace: waitsForSpace
  ) { () throws(Complaint) in ScriptedSource(script) }
}

/// A pipe's or socket pair's two descriptors: where the export writes, where the test reads. No child of another test
/// has them: its end would be waited for.
func pair(socket: Bool) throws -> (write: Int32, read: Int32) {
  var ends: [Int32] = [0, 0]
  if socket {
    #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0)
    return (ends[0], ends[1])
  }
  let pipe = try makePipe()
  return (pipe.write, pipe.read)
}

/// Everything that comes until the other end is closed.
func readAll(_ descriptor: Int32) -> [UInt8] {
  var all: [UInt8] = []
  var piece = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = read(descriptor, &piece, piece.count)
    if count <= 0 { return all }
    all += piece[..<count]
  }
}

private func deviceWithoutRoom() throws -> Destination {
  try Destination(adopting: open("/dev/full", O_WRONLY | O_CLOEXEC), name: "/dev/full")
}

@Suite("Export to destinations", .serialized, .bounded)
struct EventExporterTests {
  @Test("a destination's file is new: what has the name already is neither opened nor changed")
  func takenName() throws {
    let directory = try TestDirectory()
    let victim = try directory.write("precious", to: "victim")
    symlink("victim", directory.file("link"))
    symlink("nothing", directory.file("dangling"))
    mkfifo(directory.file("pipe"), 0o600)
    for name in ["victim", "link", "dangling", "pipe", "."] {
      do throws(Complaint) {
        _ = try DestinationAddress("file:" + directory.file(name)).open()
        Issue.record("\(name) was opened")
      } catch {
        #expect([EEXIST, EISDIR].contains(error.code), "\(name): \(error)")
      }
    }
    #expect(try String(contentsOfFile: victim, encoding: .utf8) == "precious")
    #expect(access(directory.file("nothing"), F_OK) != 0)
    _ = try DestinationAddress(directory.file("new")).open()
    var status = stat()
    #expect(stat(directory.file("new"), &status) == 0 && status.st_mode & 0o777 == 0o600)
  }

  @Test("every record reaches a file, and the stream says that the process ended", arguments: Method.allCases)
  func file(_ method: Method) throws {
    let path = unusedPath("export")
    defer { unlink(path) }
    let (script, end) = (Script(rings: 3), End())
    for ring in 0..<3 { script.add(100_000, ring: ring) }
    let exporter = try exporter(method)
    exporter.add(request(script, end, try Destination(file: path)))
    try wait(for: "every record is taken") { script.state.withLock { $0.rings.allSatisfy(\.isEmpty) } }
    script.end()
    #expect(try end.wait() == .processEnded)
    let contents = StreamContents(Array(try Data(contentsOf: URL(fileURLWithPath: path))))
    #expect(contents.problem == nil)
    // A file may be slower than the script, which has no ring to fill: then what is missing is counted.
    #expect(contents.records + Int(contents.lost) == 300_000)
    #expect(contents.gaps == contents.lost)
    #expect(contents.end == 1)
    #expect(!script.state.withLock { $0.isOpen })
    exporter.stop()
  }

  @Test(
    "lossless: every record reaches a reader that is slow, also of a process that has ended",
    arguments: Method.allCases, [false, true])
  func slow(_ method: Method, socket: Bool) throws {
    let (script, end) = (Script(rings: 2), End())
    script.add(50_000, ring: 0)
    script.add(50_000, ring: 1)
    // The process has ended already: what has no room yet must not be given up for it.
    script.end()
    let ends = try pair(socket: socket)
    let exporter = try exporter(method)
    exporter.add(
      request(
        script, end, try Destination(adopting: ends.write, name: "test"), policy: .lossless, buffer: 1 << 16))
    try wait(for: "the buffer is full, as the reader has not begun") {
      exporter.figures.reading().waitingBytes > 1 << 15
    }
    let contents = StreamContents(readAll(ends.read))
    close(ends.read)
    #expect(contents.problem == nil)
    #expect(contents.records == 100_000)
    #expect(contents.lost == 0)
    #expect(try end.wait() == .processEnded)
    exporter.stop()
  }

  @Test(
    "one that never reads takes bounded memory and loses; another of the process gets everything",
    arguments: Method.allCases)
  func neverReads(_ method: Method) throws {
    let script = Script()
    let (deaf, keen) = (End(), End())
    let (silent, open) = try (pair(socket: true), pair(socket: true))
    let exporter = try exporter(method)
    exporter.add(request(script, deaf, try Destination(adopting: silent.write, name: "deaf"), buffer: 1 << 16))
    exporter.add(request(script, keen, try Destination(adopting: open.write, name: "keen"), buffer: 1 << 20))
    let received = Mutex<[UInt8]>([])
    let reader = Thread {
      let all = readAll(open.read); received.withLock { $0 = all }
    }
    reader.start()
    try wait(for: "both are subscribed") { exporter.figures.reading().subscribers == 2 }
    for _ in 0..<20 {
      script.add(10_000)
      try wait(for: "every record is taken") { script.state.withLock { $0.rings[0].isEmpty } }
      // The keen reader's records are taken before more come.
      try wait(for: "what was for the keen one is on its way") { exporter.figures.reading().waitingBytes <= 1 << 16 }
    }
    let figures = exporter.figures.reading()
    #expect(figures.eventsDropped > 0)
    #expect(figures.sources == 1)
    script.end()
    #expect(try keen.wait() == .processEnded)
    try wait(for: "the reader has read to the end") { reader.isFinished }
    let contents = received.withLock { StreamContents($0) }
    #expect(contents.problem == nil)
    #expect(contents.records == 200_000)
    #expect(contents.lost == 0)
    #expect(deaf.known == nil)
    // The deaf one reads at last: it hears how much it lost.
    let late = StreamContents(readAll(silent.read))
    #expect(late.problem == nil)
    #expect(late.lost > 0)
    #expect(late.records + Int(late.lost) == 200_000)
    #expect(try deaf.wait() == .processEnded)
    for descriptor in [silent.read, open.read] { close(descriptor) }
    exporter.stop()
  }

  @Test(
    "a reader that goes away ends its own export only, also while nothing happens",
    arguments: Method.allCases, [false, true])
  func gone(_ method: Method, socket: Bool) throws {
    let script = Script()
    let (first, second) = (End(), End())
    let (leaving, staying) = try (pair(socket: socket), pair(socket: socket))
    let exporter = try exporter(method)
    exporter.add(request(script, first, try Destination(adopting: leaving.write, name: "leaving")))
    exporter.add(request(script, second, try Destination(adopting: staying.write, name: "staying")))
    try wait(for: "both are subscribed") { exporter.figures.reading().subscribers == 2 }
    close(leaving.read)
    #expect(try first.wait() == .destinationGone)
    script.add(10)
    script.end()
    #expect(StreamContents(readAll(staying.read)).records == 10)
    close(staying.read)
    #expect(try second.wait() == .processEnded)
    exporter.stop()
  }

  @Test(
    "a full disk is waited for: what comes meanwhile is lost, counted, and takes bounded memory",
    arguments: Method.allCases)
  func fullDisk(_ method: Method) throws {
    let (script, end) = (Script(), End())
    script.state.withLock { $0.endless = 1000 }
    let exporter = try exporter(method)
    exporter.add(
      request(
        script, end, try deviceWithoutRoom(), buffer: 1 << 16, waitsForSpace: true))
    try wait(for: "events are dropped") { exporter.figures.reading().eventsDropped > 10_000 }
    #expect(exporter.figures.reading().waitingBytes <= 1 << 16)
    #expect(end.known == nil)
    script.state.withLock { $0.endless = 0 }
    exporter.stop()
    guard case .destinationFailed(let error)? = end.known else {
      Issue.record("ended with \(String(describing: end.known))")
      return
    }
    #expect(error.code == ENOSPC)
    #expect(error.description.contains("/dev/full"))
  }

  @Test("a full disk is the end of who does not wait for room", arguments: Method.allCases)
  func fullDiskEnds(_ method: Method) throws {
    let (script, end) = (Script(), End())
    script.add(10)
    let exporter = try exporter(method)
    exporter.add(request(script, end, try deviceWithoutRoom()))
    guard case .destinationFailed(let error) = try end.wait() else {
      Issue.record("ended with \(String(describing: end.known))")
      return
    }
    #expect(error.code == ENOSPC)
    try wait(for: "the source is given up") { exporter.figures.reading().sources == 0 }
    exporter.stop()
  }

  @Test("a source that fails ends its subscribers, with what was read before", arguments: Method.allCases)
  func sourceFails(_ method: Method) throws {
    let (script, end) = (Script(), End())
    script.add(5)
    let ends = try pair(socket: false)
    let exporter = try exporter(method)
    exporter.add(request(script, end, try Destination(adopting: ends.write, name: "test")))
    try wait(for: "every record is taken") { script.state.withLock { $0.rings[0].isEmpty } }
    script.state.withLock { $0.failure = Complaint(.obstacle, what: "the segment was cut") }
    let contents = StreamContents(readAll(ends.read))
    close(ends.read)
    #expect(contents.records == 5)
    #expect(contents.end == 3)
    #expect(try end.wait() == .sourceFailed(Complaint(.obstacle, what: "the segment was cut")))
    exporter.stop()
  }

  @Test("a source that can't be opened is told to its subscriber, and nothing stays", arguments: Method.allCases)
  func cannotOpen(_ method: Method) throws {
    let end = End()
    let ends = try pair(socket: false)
    let exporter = try exporter(method)
    exporter.add(
      ExportRequest(
        subscriber: RecordStream { end.set($0) }, key: "none",
        destination: try Destination(adopting: ends.write, name: "test")
      ) { () throws(Complaint) in throw Complaint(.obstacle, what: "no such process") })
    #expect(try end.wait() == .sourceFailed(Complaint(.obstacle, what: "no such process")))
    #expect(readAll(ends.read).isEmpty)
    close(ends.read)
    #expect(exporter.figures.reading().subscribers == 0)
    exporter.stop()
  }

  @Test("losses of the ring and a damaged ring are said in the stream", arguments: Method.allCases)
  func losses(_ method: Method) throws {
    let (script, end) = (Script(rings: 2), End())
    script.state.withLock {
      $0.losses = [(0, EventLoss(count: 7, from: 100, to: 200))]
      $0.damaged = [1]
    }
    script.add(3)
    let ends = try pair(socket: true)
    let exporter = try exporter(method)
    exporter.add(request(script, end, try Destination(adopting: ends.write, name: "test")))
    try wait(for: "every record is taken") { script.state.withLock { $0.rings[0].isEmpty } }
    script.end()
    let contents = StreamContents(readAll(ends.read))
    close(ends.read)
    #expect(contents.lost == 7)
    #expect(contents.records == 3)
    #expect(contents.damagedRings == [1])
    #expect(try end.wait() == .processEnded)
    exporter.stop()
  }

  @Test("damaged rings are said, also those for which there was no room at first", arguments: Method.allCases)
  func damageWithoutRoom(_ method: Method) throws {
    let (script, end) = (Script(), End())
    script.add(50_000)
    let ends = try pair(socket: true)
    let exporter = try exporter(method)
    exporter.add(request(script, end, try Destination(adopting: ends.write, name: "test"), buffer: 4096))
    // Nobody reads yet: the buffer has room for a part of 200 frames.
    try wait(for: "events are dropped") { exporter.figures.reading().eventsDropped > 0 }
    script.state.withLock { $0.damaged = Array(0..<200) }
    try wait(for: "the damaged rings are noticed") { script.state.withLock { $0.damaged.isEmpty } }
    script.end()
    let contents = StreamContents(readAll(ends.read))
    close(ends.read)
    #expect(contents.damagedRings == Array(0..<200))
    #expect(try contents.end == 1 && end.wait() == .processEnded)
    exporter.stop()
  }

  @Test("a thousand that never read, and one that does", arguments: Method.allCases)
  func thousand(_ method: Method) throws {
    var before = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &before)
    var limit = rlimit(rlim_cur: min(before.rlim_max, 8192), rlim_max: before.rlim_max)
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    // Programs that other tests start later have the limit that they would have alone.
    defer { setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &before) }
    let script = Script()
    let exporter = try exporter(method)
    var silent: [Int32] = []
    let ends = (0..<1000).map { _ in End() }
    for end in ends {
      let ends = try pair(socket: true)
      silent.append(ends.read)
      exporter.add(request(script, end, try Destination(adopting: ends.write, name: "deaf"), buffer: 1 << 14))
    }
    let keen = End()
    let open = try pair(socket: false)
    exporter.add(request(script, keen, try Destination(adopting: open.write, name: "keen"), policy: .lossless))
    try wait(for: "all are subscribed") { exporter.figures.reading().subscribers == 1001 }
    #expect(exporter.figures.reading().sources == 2)
    script.add(10_000)
    let received = Mutex<[UInt8]>([])
    let reader = Thread {
      let all = readAll(open.read); received.withLock { $0 = all }
    }
    reader.start()
    try wait(for: "every record is taken") { script.state.withLock { $0.rings[0].isEmpty } }
    script.end()
    #expect(try keen.wait() == .processEnded)
    try wait(for: "the reader has read to the end") { reader.isFinished }
    #expect(received.withLock { StreamContents($0).problem } == nil)
    for descriptor in silent { close(descriptor) }
    for end in ends { #expect(try [.destinationGone, .processEnded].contains(end.wait())) }
    try wait(for: "nobody is subscribed any more") { exporter.figures.reading().subscribers == 0 }
    close(open.read)
    exporter.stop()
  }

  @Test("stopping ends everybody, whatever they do", arguments: Method.allCases)
  func stop(_ method: Method) throws {
    let script = Script()
    script.state.withLock { $0.endless = 5000 }
    let ends = (0..<20).map { _ in End() }
    let exporter = try exporter(method)
    var readers: [Int32] = []
    for (index, end) in ends.enumerated() {
      let pair = try pair(socket: index % 2 == 0)
      readers.append(pair.read)
      exporter.add(
        request(
          script, end, try Destination(adopting: pair.write, name: "test"),
          policy: index % 5 == 0 ? .lossless : .overwrite, buffer: 1 << 14))
    }
    try wait(for: "events are dropped") { exporter.figures.reading().eventsDropped > 100_000 }
    exporter.stop()
    for end in ends { #expect(end.known == .removed) }
    for descriptor in readers { close(descriptor) }
    #expect(!script.state.withLock { $0.isOpen })
    let late = End()
    let pair = try pair(socket: false)
    exporter.add(request(script, late, try Destination(adopting: pair.write, name: "late")))
    #expect(late.known == .removed)
    close(pair.read)
  }
}
