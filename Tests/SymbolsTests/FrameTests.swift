// SPDX-License-Identifier: Apache-2.0
// Frames against lines that are known from the source, for each language and way of writing debug information.

import Foundation
import Symbols
import TestSupport
import Testing

struct Compilation: CustomTestStringConvertible, Sendable {
  var compiler: String
  var arguments: [String]
  var testDescription: String { ([compiler] + arguments).joined(separator: " ") }
}

@Suite(.bounded) struct FrameTests {
  @Test(
    "inlined calls of a C program come innermost first, each with its line",
    arguments: [
      Compilation(compiler: "gcc", arguments: ["-O2", "-g"]),
      Compilation(compiler: "gcc", arguments: ["-O0", "-g"]),
      Compilation(compiler: "gcc", arguments: ["-O2", "-gdwarf-4", "-gz"]),
      Compilation(compiler: "gcc", arguments: ["-O2", "-g", "-no-pie"]),
      Compilation(compiler: "gcc", arguments: ["-O2", "-g", "-flto"]),
      Compilation(compiler: "gcc", arguments: ["-O2", "-g", "-freorder-blocks-and-partition", "-ffunction-sections"]),
      Compilation(compiler: "clang", arguments: ["-O2", "-g", "-Wl,--build-id"]),
      Compilation(compiler: "clang", arguments: ["-O2", "-gdwarf-4", "-Wl,--build-id"]),
    ])
  func inlinedCalls(_ compilation: Compilation) throws {
    let program = try TestProgram("plain.c", compiler: compilation.compiler, compilation.arguments)
    #expect(
      try program.frames("inlined").map(\.seen) == [
        ExpectedFrame(function: "innermost", file: "plain.c", line: program.line("innermost"), inlined: true),
        ExpectedFrame(function: "middle", file: "plain.c", line: program.line("middle"), inlined: true),
        ExpectedFrame(function: "outer", file: "plain.c", line: program.line("outer")),
      ])
    #expect(
      try program.frames("hidden").map(\.seen) == [
        ExpectedFrame(function: "hidden", file: "plain.c", line: program.line("hidden"))
      ])
    #expect(try program.frames("inlined").allSatisfy { $0.module?.unescaped == program.path })
  }

  @Test("a call that ends its function belongs to that function, not to the next")
  func lastCall() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"])
    let last = try program.symbol("last")
    let end = last.address + last.size
    let frames = Symbolizer().frames(returnAddress: end + TestProgram.bias, in: program.module)
    #expect(frames.last?.function == "last")
  }

  @Test(
    "C++ names are qualified and demangled",
    arguments: [
      Compilation(compiler: "g++", arguments: ["-O2", "-g"]),
      Compilation(compiler: "g++", arguments: ["-O0", "-g"]),
      Compilation(compiler: "clang++", arguments: ["-O2", "-g", "-Wl,--build-id"]),
    ])
  func cxx(_ compilation: Compilation) throws {
    let program = try TestProgram("templates.cpp", compiler: compilation.compiler, compilation.arguments)
    let method = try #require(try program.frames("method").first)
    #expect(method.function?.contains("shop::Shelf<std::") == true)
    #expect(method.function?.contains("::put(") == true)
    #expect(try method.line == program.line("method"))
    let constructor = try #require(try program.frames("constructor").first)
    #expect(constructor.function?.hasPrefix("shop::Shelf<std::") == true)
    #expect(constructor.function?.hasSuffix("::Shelf(int)") == true)
    #expect(try program.frames("operator").first?.function == "shop::Meter::operator+(shop::Meter const&) const")
    let lambda = try #require(try program.frames("lambda").first?.function)
    #expect(
      ["run(int)::{lambda(int)#1}::operator()(int) const", "run(int)::$_0::operator()(int) const"].contains(lambda))
    let template = try program.frames("template")
    #expect(
      template.map(\.seen) == [
        ExpectedFrame(
          function: "int shop::times<7>(int)", file: "templates.cpp", line: try program.line("times"), inlined: true),
        ExpectedFrame(function: "run(int)", file: "templates.cpp", line: try program.line("run")),
      ])
  }

  @Test(
    "Rust names are demangled", .enabled(if: findTool("rustc") != nil),
    arguments: ["the default", "v0"])
  func rust(_ mangling: String) throws {
    let program = try TestProgram(
      "traits.rs", compiler: "rustc",
      ["-g", "-C", "opt-level=2", "-C", "link-arg=-Wl,--build-id"]
        + (mangling == "v0" ? ["-C", "symbol-mangling-version=v0"] : []))
    #expect(
      try program.frames("water").map(\.seen) == [
        ExpectedFrame(function: "traits::garden::water", file: "traits.rs", line: program.line("water"), inlined: true),
        ExpectedFrame(function: "traits::season", file: "traits.rs", line: program.line("season")),
      ])
    let method = try #require(try program.frames("trait").first)
    #expect(method.function?.hasPrefix("<traits::garden::Bed<") == true)
    #expect(method.function?.hasSuffix(" as traits::garden::Grow>::grow") == true)
    #expect(try method.line == program.line("trait"))
  }

  @Test("Swift names are demangled", arguments: ["-O", "-Onone"])
  func swift(_ optimization: String) throws {
    let program = try TestProgram(
      "generics.swift", compiler: "swiftc", ["-g", optimization, "-Xlinker", "--build-id", "-module-name", "generics"])
    let frames = try program.frames("inlined")
    // Unoptimized, it is a function of its own.
    #expect(
      frames.map(\.seen).prefix(2)
        == [
          ExpectedFrame(
            function: "generics.fold(Swift.Int) -> Swift.Int", file: "generics.swift", line: try program.line("fold"),
            inlined: optimization == "-O"),
          ExpectedFrame(
            function: "generics.work(Swift.Int) -> Swift.Int", file: "generics.swift", line: try program.line("work")),
        ].prefix(optimization == "-O" ? 2 : 1))
    let method = try #require(try program.frames("method").first)
    #expect(method.function?.hasSuffix("generics.Basket.add(A) -> Swift.Int") == true)
    #expect(try method.line == program.line("method"))
  }

  @Test(
    "every address of a program gets the line and the inlined calls that eu-addr2line gives",
    .enabled(if: findTool("eu-addr2line") != nil), arguments: ["gcc", "clang"])
  func againstAddr2line(_ compiler: String) throws {
    let program = try TestProgram(
      "plain.c", compiler: compiler,
      ["-O2", "-g", "-gdwarf-aranges", "-Wl,--build-id"].filter { compiler == "clang" || $0 != "-gdwarf-aranges" })
    let symbolizer = Symbolizer()
    var checked = 0
    for name in ["outer", "hidden", "last", "main"] {
      let symbol = try program.symbol(name)
      let addresses = (symbol.address..<symbol.address + symbol.size).map { $0 }
      let output = try run(
        "eu-addr2line", ["-i", "-e", program.path] + addresses.map { "0x" + String($0, radix: 16) })
      let expected = output.split(separator: "\n").map { String($0.split(separator: "/").last ?? "") }
      let seen = addresses.flatMap { address in
        symbolizer.frames(returnAddress: address + 1 + TestProgram.bias, in: program.module).map { frame in
          "\(frame.seen.file ?? "??"):\(frame.line ?? 0)"
        }
      }
      #expect(seen == expected.map { $0.split(separator: ":").prefix(2).joined(separator: ":") })
      checked += addresses.count
    }
    #expect(checked > 50)
  }
}
