// SPDX-License-Identifier: Apache-2.0
// `allocsctl run --record`: runs the program as a child of allocsctl, which records it to its end and then ends as the
// program did.
//
// - Signals of the terminal reach the program, which decides about them; allocsctl ignores them. SIGTERM and SIGHUP,
//   which are sent to one process, are passed on to the program.
// - The program's own output is left alone: the result of the recording is told on standard error.
// - A program that replaces this one by exec has an index of its own, and so a recording of its own: run.rec, then
//   run-2.rec.

import Answers
import ByteText
import Glibc
import IndexReader
import Recording
import SystemAccess

/// The program's process id, for the signal handler; 0 before it was started.
nonisolated(unsafe) private var programID: pid_t = 0

enum RecordedRun {
  /// Starts the program and returns its exit status, or 128 + the signal that ended it.
  static func run(_ started: Program, to file: String, isCompressed: Bool) throws(Complaint) -> Int32 {
    // The agent records from the program's first call on; until the recorder attaches, the rings keep the events. The
    // value is this process's id: the agent in a child of the program, which inherits the variable, has another parent
    // and ignores it.
    Variables.set("ALLOCS_RECORDER", to: "\(getpid())")
    let child = try start(started)
    var status: Int32?
    var options = Recorder.Options()
    options.isCompressed = isCompressed
    options.isFromStart = true
    var program = started.command[0]
    var number = 1
    var programs: UInt32 = 0
    while true {
      guard let shared = segment(of: child, &status) else {
        complain("\(program) was not recorded: it ended before it was indexed, or could not be indexed")
        break
      }
      let missed = shared.segment.programsBefore &- programs
      if missed > 0, missed < .max / 2 {
        let (verb, object) = missed == 1 ? ("is", "it") : ("are", "them")
        complain(
          """
          \(Units.count(UInt64(missed), "program")) that the process ran before \
          \(shared.segment.command.first ?? "this one") \(verb) not recorded: exec replaced \(object) too \
          soon to be seen
          """)
      }
      programs = shared.segment.programsBefore &+ 1
      let path = number == 1 ? file : numbered(file, number)
      do throws(Complaint) {
        let result = try Recorder(shared, to: path, options: options).run { nil }
        complain("\(path): \(result.text)")
        guard result.end == .replaced else { break }
      } catch {
        // The program goes on, unrecorded.
        EventConsumer.giveUp(shared.segment)
        complain(error.description)
        break
      }
      program = "the program that it became"
      number &+= 1
    }
    return end(of: child, status)
  }

  /// "run-2.rec" of "run.rec"
  private static func numbered(_ file: String, _ number: Int) -> String {
    let name = file.lastIndex(of: "/").map { file.index(after: $0) } ?? file.startIndex
    guard let dot = file[name...].lastIndex(of: "."), dot != name else { return "\(file)-\(number)" }
    return "\(file[..<dot])-\(number)\(file[dot...])"
  }

  private static func start(_ program: Program) throws(Complaint) -> pid_t {
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    // Signals that were ignored before stay ignored in the program; signals that allocsctl begins to ignore now do not.
    var defaults = sigset_t()
    sigemptyset(&defaults)
    // A recording into a pipe whose reader goes away ends with an error and not by SIGPIPE, and the program goes on.
    for number in [SIGINT, SIGQUIT, SIGPIPE] {
      var old = sigaction()
      sigaction(number, nil, &old)
      guard unsafeBitCast(old.__sigaction_handler.sa_handler, to: Int.self) != unsafeBitCast(SIG_IGN, to: Int.self)
      else { continue }
      sigaddset(&defaults, number)
      signal(number, SIG_IGN)
    }
    posix_spawnattr_setsigdefault(&attributes, &defaults)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF))
    let arguments = ArgumentVector(program.command)
    var child: pid_t = 0
    var code = posix_spawn(&child, program.path.originalPath, nil, &attributes, arguments.pointers, environ)
    if code == ENOEXEC {
      // A text without #! is given to the shell, as shells do.
      let script = ArgumentVector(program.shellCommand)
      code = posix_spawn(&child, Program.shell, nil, &attributes, script.pointers, environ)
    }
    guard code == 0 else { throw Program.failure(code, program.path) }
    programID = child
    for number in [SIGTERM, SIGHUP] { signal(number) { _ = kill(programID, $0) } }
    return child
  }

  /// The program's segment, as soon as it is complete; nil if the program ended before that, with its status.
  private static func segment(of child: pid_t, _ status: inout Int32?) -> SharedSegment? {
    while true {
      // The order matters: a segment that was made before the end was seen is found after it.
      var code: Int32 = 0
      if waitpid(child, &code, WNOHANG) == child { status = code }
      if let file = try? SegmentDirectory.find(processID: child), file.isLive || status != nil,
        let shared = try? SharedSegment(path: file.path)
      {
        return shared
      }
      if status != nil { return nil }
      usleep(200)
    }
  }

  private static func end(of child: pid_t, _ known: Int32?) -> Int32 {
    var status = known ?? 0
    if known == nil {
      while waitpid(child, &status, 0) < 0 { guard errno == EINTR else { return ExitStatus.notAnswered } }
    }
    let number = status & 0x7F
    return number == 0 ? status >> 8 & 0xFF : 128 &+ number
  }
}
