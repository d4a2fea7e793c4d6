// SPDX-License-Identifier: Apache-2.0
// Running a program and learning what it cost. posix_spawn and wait4 instead of Foundation's Process, which tells
// neither processor time nor lets the child inherit a processor.

import Foundation
import Glibc

struct BenchmarkError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// What a program that ended has used, in seconds.
struct Usage {
  let elapsed: Double
  let processor: Double
}

/// A program to run: where, with which arguments, with which variables besides this process's own.
struct Command {
  var program: String
  var arguments: [String] = []
  var environment: [String: String] = [:]
  /// The processor to run on; nil for any.
  var processor: Int?
  /// The file that becomes standard input; nil for an empty one.
  var input: String?

  /// Runs the program to its end and returns what it wrote to standard output. Fails if it didn't exit with 0.
  @discardableResult
  func run() throws -> (output: String, usage: Usage) {
    var child = try start()
    let output = child.readToEnd()
    let usage = try child.wait(for: self)
    return (output, usage)
  }

  /// Starts the program with pipes for its standard input (unless `input` names a file) and output.
  func start(keepsInputOpen: Bool = false) throws -> Child {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    let output = try pipe()
    var inputWriter: Int32?
    if keepsInputOpen {
      let ends = try pipe()
      posix_spawn_file_actions_adddup2(&actions, ends.read, 0)
      inputWriter = ends.write
      defer { close(ends.read) }
      return try spawn(&actions, output: output, inputWriter: inputWriter)
    }
    posix_spawn_file_actions_addopen(&actions, 0, input ?? "/dev/null", O_RDONLY, 0)
    return try spawn(&actions, output: output, inputWriter: nil)
  }

  /// taskset and env replace themselves by the program, which so keeps its process id; and what is to be preloaded is
  /// not preloaded into them.
  private var commandLine: [String] {
    (processor.map { ["taskset", "-c", "\($0)"] } ?? [])
      + (environment.isEmpty ? [] : ["env"] + environment.map { "\($0)=\($1)" }.sorted())
      + [program] + arguments
  }

  private func spawn(
    _ actions: inout posix_spawn_file_actions_t, output: (read: Int32, write: Int32), inputWriter: Int32?
  ) throws -> Child {
    posix_spawn_file_actions_adddup2(&actions, output.write, 1)
    let words = commandLine
    let argv = words.map { strdup($0) } + [nil]
    let envp = ProcessInfo.processInfo.environment.map { strdup("\($0)=\($1)") } + [nil]
    defer { (argv + envp).forEach { free($0) } }
    let started = monotonicSeconds()
    var pid: pid_t = 0
    let error = posix_spawnp(&pid, words[0], &actions, nil, argv, envp)
    close(output.write)
    guard error == 0 else {
      close(output.read)
      if let inputWriter { close(inputWriter) }
      throw BenchmarkError("\(program) could not be started: \(String(cString: strerror(error)))")
    }
    return Child(pid: pid, output: output.read, input: inputWriter, started: started)
  }

  private func pipe() throws -> (read: Int32, write: Int32) {
    var ends: [Int32] = [0, 0]
    guard Glibc.pipe(&ends) == 0 else {
      throw BenchmarkError("no pipe could be made: \(String(cString: strerror(errno)))")
    }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    return (ends[0], ends[1])
  }
}

/// A running program, which must be waited for.
struct Child {
  let pid: pid_t
  private let output: Int32
  private var input: Int32?
  private let started: Double

  fileprivate init(pid: pid_t, output: Int32, input: Int32?, started: Double) {
    self.pid = pid
    self.output = output
    self.input = input
    self.started = started
  }

  /// Reads standard output up to the next newline or its end.
  func readLine() -> String {
    var line: [UInt8] = []
    var byte: UInt8 = 0
    while read(output, &byte, 1) == 1, byte != UInt8(ascii: "\n") { line.append(byte) }
    return String(decoding: line, as: UTF8.self)
  }

  func readToEnd() -> String {
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = read(output, &buffer, buffer.count)
      guard count > 0 else { break }
      all += buffer[..<count]
    }
    return String(decoding: all, as: UTF8.self)
  }

  /// Closes the pipe that is the program's standard input.
  mutating func endInput() {
    if let input { close(input) }
    input = nil
  }

  func signal(_ signal: Int32) { kill(pid, signal) }

  /// Waits for the end; fails unless the program exited with 0, or by `expectedSignal`.
  @discardableResult
  mutating func wait(for command: Command, expectedSignal: Int32 = 0) throws -> Usage {
    endInput()
    var status: Int32 = 0
    var resources = rusage()
    while wait4(pid, &status, 0, &resources) < 0 {
      guard errno == EINTR else { break }
    }
    let elapsed = monotonicSeconds() - started
    close(output)
    let signal = status & 0x7F
    let exitStatus = status >> 8 & 0xFF
    guard signal == 0 ? exitStatus == 0 : signal == expectedSignal else {
      throw BenchmarkError(
        "\(([command.program] + command.arguments).joined(separator: " ")) "
          + (signal == 0 ? "exited with \(exitStatus)" : "was ended by signal \(signal)"))
    }
    let processor = [resources.ru_utime, resources.ru_stime].map { Double($0.tv_sec) + Double($0.tv_usec) / 1e6 }
    return Usage(elapsed: elapsed, processor: processor[0] + processor[1])
  }
}

/// Processor time of process `pid` so far, of all its threads, ended ones included, in seconds.
func processorTime(of pid: pid_t) -> Double {
  var clock = clockid_t()
  var time = timespec()
  guard clock_getcpuclockid(pid, &clock) == 0, clock_gettime(clock, &time) == 0 else { return 0 }
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Seconds of processor time of a process and its descendants that run: of all parts of a server.
func processorTime(ofAll pid: pid_t) -> Double { processes(of: pid).reduce(0) { $0 + processorTime(of: $1) } }

func monotonicSeconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// The processors that this process, and so its children, may run on.
let processors: [Int] = {
  let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
  let list =
    status.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed_list:") }?.split(separator: "\t").last ?? "0"
  return list.split(separator: ",").flatMap { range in
    let ends = range.split(separator: "-").compactMap { Int($0) }
    return ends.isEmpty ? [] : Array(ends[0]...max(ends[0], ends[ends.count - 1]))
  }
}()
