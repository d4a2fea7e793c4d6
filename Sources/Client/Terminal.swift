// SPDX-License-Identifier: Apache-2.0
// The terminal, for a command that fills the screen: keys come one by one, and lines are drawn in their places.
//
// However the program ends, the terminal is as it was: at the end of `Terminal`'s life, by ^C, SIGTERM and SIGHUP
// (which a thread waits for, as keys do not come while a look is awaited), and by exit(3). SIGTSTP is off meanwhile: ^Z
// would leave the screen behind.

import ByteText
import Glibc
import Synchronization
import SystemAccess
import Watching

/// The terminal that standard input and output lead to, taken for the whole screen.
final class Terminal {
  /// What can happen while a program waits.
  enum Event {
    case keys([Key])
    case resized
    /// A signal that ends the program, by its number.
    case ended(Int32)
    /// Another thread called `wake`.
    case woken
    /// The time is over.
    case late
    /// The terminal has gone.
    case gone
  }

  /// Whether standard input and output are a terminal that can place text.
  static var isUsable: Bool {
    guard isatty(STDIN_FILENO) == 1, isatty(STDOUT_FILENO) == 1 else { return false }
    let kind = getenv("TERM").map { String(cString: $0) } ?? ""
    return !kind.isEmpty && kind != "dumb"
  }

  /// The settings to go back to; nil while the terminal is as it was.
  private static let former = Mutex<termios?>(nil)

  private let pipe: (read: Int32, write: Int32)
  private let hasColour = (getenv("NO_COLOR").map { $0.pointee == 0 } ?? true)
  private var drawn: [ScreenLine] = []

  /// Takes the terminal. To be made before other threads are, as they inherit that its signals are blocked.
  init() throws(Complaint) {
    var ends: [Int32] = [-1, -1]
    guard Glibc.pipe(&ends) == 0 else { throw Self.failure("make a pipe") }
    for end in ends {
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
    }
    pipe = (ends[0], ends[1])
    try Self.waitForSignals(pipe.write)
    try Self.take()
  }

  deinit { Self.restore() }

  private static func failure(_ doing: String) -> Complaint {
    Complaint(
      .obstacle, what: "can't \(doing) for the screen: \(systemWords(errno))", advice: "--once does without the screen",
      code: errno)
  }

  private static func take() throws(Complaint) {
    var settings = termios()
    guard tcgetattr(STDIN_FILENO, &settings) == 0 else { throw failure("read the terminal's settings") }
    former.withLock { $0 = settings }
    atexit { Terminal.restore() }
    settings.c_lflag &= ~tcflag_t(ICANON | ECHO | IEXTEN)
    settings.c_iflag &= ~tcflag_t(IXON)
    withUnsafeMutableBytes(of: &settings.c_cc) { characters in
      characters[Int(VMIN)] = 1
      characters[Int(VTIME)] = 0
      // No character suspends or quits.
      characters[Int(VSUSP)] = 0
      characters[Int(VQUIT)] = 0
    }
    guard tcsetattr(STDIN_FILENO, TCSADRAIN, &settings) == 0 else { throw failure("set the terminal") }
    // The other screen, without a cursor, and lines that are cut at its edge.
    write("\u{1B}[?1049h\u{1B}[?25l\u{1B}[?7l\u{1B}[2J")
  }

  /// Gives the terminal back as it was. Once, whoever comes first.
  private static func restore() {
    let settings = former.withLock { former in
      defer { former = nil }
      return former
    }
    guard var settings else { return }
    write("\u{1B}[0m\u{1B}[?7h\u{1B}[?25h\u{1B}[?1049l")
    tcsetattr(STDIN_FILENO, TCSADRAIN, &settings)
  }

  private static func write(_ text: String) { _ = writeAll(Array(text.utf8), to: STDOUT_FILENO) }

  // MARK: signals

  private static let signals: [Int32] = [SIGINT, SIGTERM, SIGHUP, SIGWINCH]

  private static var signalSet: sigset_t {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in signals { sigaddset(&set, signal) }
    return set
  }

  /// Begins a thread that writes the number of each signal into a pipe. The second one that ends the program does so at
  /// once.
  private static func waitForSignals(_ pipe: Int32) throws(Complaint) {
    var set = signalSet
    pthread_sigmask(SIG_BLOCK, &set, nil)
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { context in
        let pipe = Int32(truncatingIfNeeded: Int(bitPattern: context) &- 1)
        var set = Terminal.signalSet
        var hasEnded = false
        while true {
          var number: Int32 = 0
          guard sigwait(&set, &number) == 0 else { continue }
          if number != SIGWINCH {
            if hasEnded { exit(128 &+ number) }
            hasEnded = true
          }
          var byte = UInt8(truncatingIfNeeded: number)
          _ = Glibc.write(pipe, &byte, 1)
        }
      }, UnsafeMutableRawPointer(bitPattern: Int(truncatingIfNeeded: pipe) &+ 1))
    guard code == 0 else {
      errno = code
      throw failure("begin a thread")
    }
    pthread_detach(thread)
  }

  // MARK: waiting

  /// Makes `wait` return. From any thread.
  var wake: @Sendable () -> Void {
    let end = pipe.write
    return {
      var byte: UInt8 = 0
      _ = Glibc.write(end, &byte, 1)
    }
  }

  /// Waits for something to happen, for so many seconds at most.
  func wait(seconds: Double) -> Event {
    var requests = [
      pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0),
      pollfd(fd: pipe.read, events: Int16(POLLIN), revents: 0),
    ]
    let milliseconds = Int32(max(0, min(seconds, 3600)) * 1000 + 0.999)  // bounded: an hour has 3,600,000
    guard poll(&requests, 2, milliseconds) > 0 else { return .late }
    if requests[1].revents != 0 {
      var byte: UInt8 = 0
      guard read(pipe.read, &byte, 1) == 1 else { return .woken }
      let number = Int32(truncatingIfNeeded: byte)
      return number == 0 ? .woken : number == SIGWINCH ? .resized : .ended(number)
    }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = read(STDIN_FILENO, &bytes, bytes.count)
    if count < 0, errno == EINTR || errno == EAGAIN { return .woken }
    return count > 0 ? .keys(Key.keys(in: Array(bytes[..<count]))) : .gone
  }

  // MARK: drawing

  /// Columns and rows, as the terminal says; 0 and 0 if it says nothing.
  var size: (columns: Int, rows: Int) {
    var size = winsize()
    guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0 else { return (0, 0) }
    return (Int(size.ws_col), Int(size.ws_row))  // bounded: two numbers of 16 bits
  }

  /// Draws the lines that are not there already; all of them if `anew`.
  func draw(_ lines: [ScreenLine], anew: Bool) {
    var text = anew ? "\u{1B}[2J" : ""
    for (index, line) in lines.enumerated() where anew || index >= drawn.count || drawn[index] != line {
      // What was there is erased first: behind a line as wide as the terminal, the cursor stands on its last character.
      text += "\u{1B}[\(index &+ 1);1H\u{1B}[K\(style(line.style))\(line.text)\u{1B}[0m"
    }
    drawn = lines
    if !text.isEmpty { Self.write(text) }
  }

  /// Without colours, bold and reversed letters tell lines apart.
  private func style(_ style: ScreenLine.Style) -> String {
    switch style {
    case .plain: ""
    case .title: "\u{1B}[1m"
    case .heading: "\u{1B}[1m\u{1B}[4m"
    case .selected: "\u{1B}[7m"
    case .grown: hasColour ? "\u{1B}[33m" : ""
    case .shrunk: hasColour ? "\u{1B}[32m" : ""
    case .warning: hasColour ? "\u{1B}[31m" : "\u{1B}[1m"
    }
  }
}
