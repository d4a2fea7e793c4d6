// SPDX-License-Identifier: Apache-2.0
// The formats of other programs in which live memory by call stack can be written. A format is a renderer in this
// folder and a row here: the help of the command, the errors and the routes of the server list the rows.
//
// Names come from outside. Each format writes them in its own escaping, after ForeignText's: a viewer that takes them
// for markup or for control characters is never given any.

import Bounds
import ByteText
import Provenance
import Symbols

/// A format in which `StackSums` can be written.
public enum ProfileFormat: String, CaseIterable, Sendable {
  case pprof
  case collapsed
  case flamegraph
  case speedscope
  case dhat

  /// The purpose of the format, in the words of the command's help.
  public var purpose: String {
    switch self {
    case .pprof: "for go tool pprof, Pyroscope, Parca and Perfetto"
    case .collapsed: "a line a stack, for flamegraph.pl, inferno and speedscope"
    case .flamegraph: "a picture for a browser, with a search"
    case .speedscope: "for speedscope.app"
    case .dhat: "for Valgrind's dh_view.html"
    }
  }

  /// The media type of the file, for HTTP.
  public var mediaType: String {
    switch self {
    // A scraper takes no other.
    case .pprof: "application/octet-stream"
    case .collapsed: "text/plain; charset=utf-8"
    case .flamegraph: "image/svg+xml"
    case .speedscope, .dhat: "application/json"
    }
  }

  /// Whether the format has a place for what was ever allocated, beside what lives.
  public var hasTotals: Bool { self == .pprof }

  /// The bytes of the file.
  public func render(_ sums: StackSums) -> [UInt8] {
    switch self {
    case .pprof: PprofFile.render(sums)
    case .collapsed: CollapsedStacks.render(sums)
    case .flamegraph: FlameGraph(of: sums).render()
    case .speedscope: SpeedscopeFile.render(sums)
    case .dhat: DHATFile.render(sums)
    }
  }
}

extension StackSums {
  /// What the index lacks, in the words of every answer; nil where nothing is missing.
  public var lossSentence: String? { losses.sentence.map { TextLayout.printable($0) } }

  /// `redis-server, process 4242: live bytes by call stack`: what a viewer shows above a profile.
  var profileTitle: String {
    let words = look.window.words(at: look.now).map { ", of blocks \($0)" } ?? ""
    let title = IndexedProcess.title(processID, command, hasEnded: look.hasEnded)
    return TextLayout.printable("\(title): live bytes by call stack\(words)")
  }
}

extension Frame {
  /// The name of the function, or of the place where it should be; else the address.
  var nameOrPlace: ForeignText { function ?? placeName ?? ForeignText(hex(pc)) }

  /// The name of the function, or of the place where it should be.
  var profileName: String { nameOrPlace.escaped }
}

extension StackSums.Row {
  /// The frames of the whole stack, outermost first, with the function that was called as the last name.
  var profileNames: [String] {
    var names = stack.truncation != nil || stack.frames.isEmpty ? ["[callers not known]"] : []
    names.append(contentsOf: stack.frames.reversed().map(\.profileName))
    if let function, stack.frames.first?.function != function { names.append(TextLayout.printable(function)) }
    return names
  }
}
