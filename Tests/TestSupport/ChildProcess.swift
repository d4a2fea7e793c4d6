// SPDX-License-Identifier: Apache-2.0
// Programs that the tests start: to their end, or to speak with while they run.
//
// - Standard error goes to a file, and standard output too unless the test speaks with the program: nothing waits for a
//   reader. Each program leads a process group, which is killed when the test leaves it behind, and when the run ends
//   because of a test that does not (Bounded.swift).
// - Waiting has a limit, so that a program that hangs is a failure of its test and not of the whole run.

import Foundation
import Synchronization

/// The end of a program, and its output.
package struct Outcome: Equatable {
  package enum Ending: Equatable, CustomStringConvertible, Sendable {
    case exit(Int32)
    case signal(Int32)

    init(status: Int32) { self = status & 0x7f == 0 ? .exit(status >> 8 & 0xff) : .signal(status & 0x7f) }
    package var description: String {
      switch self {
      case .exit(let status): "exit status \(status)"
      case .signal(let number): "signal \(number) (\(String(cString: strsignal(number))))"
      }
    }
  }
  package var ending: Ending
  package var output: String
  package var errors: String

  package init(ending: Ending, output: String, errors: String) {
    (self.ending, self.output, self.errors) = (ending, output, errors)
  }
}

package final class ChildProcess: @unchecked Sendable {
  /// Seconds after which a program is taken to hang.
  package static let patience = 150.0

  /// The programs that run, by process id.
  private static let running = Mutex<[Int32: String]>([:])

  package let pid: Int32
  package let name: String
  private let files: TestDirectory
  private var input: Int32
  private var output: Int32
  private var unread: [UInt8] = []
  private var status: Int32?

  /// The environment of the tests' programs: no preload and no ALLOCS_ variable of ours.
  package static let baseEnvironment: [String: String] = {
    let own = ProcessInfo.processInfo.environment
    var environment = ["LC_ALL": "C.UTF-8", "PATH": own["PATH"] ?? "/usr/local/bin:/usr/bin:/bin"]
    // The last two are for programs that scripts/sanitize instruments.
    for name in ["HOME", "TMPDIR", "TOOLCHAINS", "CPATH", "LIBRARY_PATH", "ASAN_OPTIONS", "TSAN_OPTIONS"] {
      environment[name] = own[name]
    }
    return environment
  }()

  /// Starts a program; `conversing` connects its standard input and output to `send` and `readLine`, else the input is
  /// the file `inputPath` or nothing.
  package init(
    _ arguments: [String], environment: [String: String], inputPath: String = "/dev/null",
    conversing: Bool = false
  ) throws {
    files = try TestDirectory()
    name = (arguments[0] as NSString).lastPathComponent
    (input, output) = (-1, -1)

    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    var theirs: [Int32] = []
    defer { for descriptor in theirs { close(descriptor) } }
    if conversing {
      // Sockets instead of pipes: these are closed on exec from the first moment on, so no other child inherits them.
      let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
      var towards: [Int32] = [-1, -1]
      var back: [Int32] = [-1, -1]
      guard socketpair(AF_UNIX, kind, 0, &towards) == 0, socketpair(AF_UNIX, kind, 0, &back) == 0 else {
        throw HarnessError("no socket pair for \(name)")
      }
      (input, output) = (towards[1], back[0])
      theirs = [towards[0], back[1]]
      posix_spawn_file_actions_adddup2(&actions, towards[0], 0)
      posix_spawn_file_actions_adddup2(&actions, back[1], 1)
    } else {
      posix_spawn_file_actions_addopen(&actions, 0, inputPath, O_RDONLY, 0)
      posix_spawn_file_actions_addopen(&actions, 1, files.file("out"), O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    }
    posix_spawn_file_actions_addopen(&actions, 2, files.file("err"), O_WRONLY | O_CREAT | O_APPEND, 0o600)

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    // Signals as in a shell: the test runner blocks some and ignores others, and a child would inherit both.
    var none = sigset_t(), all = sigset_t()
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    var variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup("\($0)=\($1)") } + [nil]
    defer { for word in words + variables { free(word) } }
    var child: Int32 = 0
    let error = posix_spawnp(&child, arguments[0], &actions, &attributes, &words, &variables)
    guard error == 0 else {
      for descriptor in [input, output] where descriptor >= 0 { close(descriptor) }
      throw HarnessError("\(arguments[0]) could not be started: \(String(cString: strerror(error)))")
    }
    pid = child
    Self.running.withLock { [name] in $0[child] = name }
  }

  deinit {
    if status == nil {
      // Before it is waited for: afterwards its id may be another's.
      Self.running.withLock { [pid] in $0[pid] = nil }
      Self.killGroup(pid)
      var ignored: Int32 = 0
      waitpid(pid, &ignored, 0)
    }
    for descriptor in [input, output] where descriptor >= 0 { close(descriptor) }
  }

  private static func killGroup(_ pid: Int32) {
    kill(-pid, SIGKILL)
    kill(pid, SIGKILL)
  }

  /// Kills every program that runs, with those that it started; returns their names and process ids.
  static func killAll() -> [String] {
    running.withLock { running in
      for pid in running.keys { killGroup(pid) }
      return running.map { "\($1) (process \($0))" }.sorted()
    }
  }

  /// Runs a program to its end.
  package static func run(
    _ arguments: [String], environment: [String: String] = [:], input: String? = nil,
    patience: Double = ChildProcess.patience
  ) throws -> Outcome {
    let files = try TestDirectory()
    let inputPath = try input.map { try files.write($0, to: "in") } ?? "/dev/null"
    let child = try ChildProcess(
      arguments, environment: baseEnvironment.merging(environment) { $1 }, inputPath: inputPath)
    return try child.wait(patience: patience)
  }

  // MARK: conversation

  /// The next line of its standard output, nil at its end.
  package func readLine() throws -> String? {
    let limit = Date().addingTimeInterval(ChildProcess.patience)
    while true {
      if let end = unread.firstIndex(of: 10) {
        defer { unread.removeSubrange(...end) }
        return String(decoding: unread[..<end], as: UTF8.self)
      }
      var waiting = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
      if poll(&waiting, 1, 200) > 0 {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = read(output, &bytes, bytes.count)
        if count <= 0 {
          defer { unread = [] }
          return unread.isEmpty ? nil : String(decoding: unread, as: UTF8.self)
        }
        unread += bytes[..<count]
      } else if Date() > limit {
        throw HarnessError("\(name) said nothing for \(Int(ChildProcess.patience)) s; standard error: \(errors)")
      }
    }
  }

  /// Reads lines until one that begins with `prefix`, and returns them all.
  package func readLines(until prefix: String) throws -> [String] {
    var lines: [String] = []
    while let line = try readLine() {
      lines.append(line)
      if line.hasPrefix(prefix) { return lines }
    }
    let ending = try wait().ending
    throw HarnessError(
      "\(name) ended (\(ending)) before it said '\(prefix)'; output: \(lines); standard error: \(errors)")
  }

  package func send(_ text: String) throws {
    let bytes = Array(text.utf8)
    guard write(input, bytes, bytes.count) == bytes.count else { throw HarnessError("\(name) does not read its input") }
  }

  package func closeInput() {
    if input >= 0 { close(input) }
    input = -1
  }

  /// Bytes of its memory, its share of files left out.
  package func memory() throws -> Int {
    let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
    let words = status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }?.split(separator: " ")
    guard let words, words.count > 1, let size = Int(words[words.count - 2]) else {
      throw HarnessError("\(name) has ended, or its memory is not known: \(errors)")
    }
    return size << 10
  }

  /// How many files it has open.
  package func descriptors() throws -> Int {
    try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd").count
  }

  package func signal(_ number: Int32) { kill(pid, number) }

  package var hasEnded: Bool {
    if status != nil { return true }
    var value: Int32 = 0
    // Under the lock, for killAll: an id that was waited for may be another process's.
    let hasEnded = Self.running.withLock { [pid] running in
      guard waitpid(pid, &value, WNOHANG) == pid else { return false }
      running[pid] = nil
      return true
    }
    if hasEnded { status = value }
    return hasEnded
  }

  /// Its standard output so far, unless that is read with `readLine`.
  package var said: String { (try? String(contentsOfFile: files.file("out"), encoding: .utf8)) ?? "" }

  /// Its standard error so far.
  package var errors: String { (try? String(contentsOfFile: files.file("err"), encoding: .utf8)) ?? "" }

  /// Closes its input, waits for its end, and takes what it left.
  package func wait(patience: Double = ChildProcess.patience) throws -> Outcome {
    closeInput()
    var rest = ""
    while output >= 0, let line = try readLine() { rest += line + "\n" }
    try TestSupport.wait(
      for: "\(name) ends; standard error: \(errors)", patience: patience, pause: 1000, until: { hasEnded })
    let bytes = FileManager.default.contents(atPath: files.file("out")).map { String(decoding: $0, as: UTF8.self) }
    return Outcome(ending: Outcome.Ending(status: status!), output: bytes ?? rest, errors: errors)
  }
}
