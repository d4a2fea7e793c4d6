// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import Foundation
import PackageDescription

// The agent is Embedded Swift. Its standard library lives beside the ordinary one, where --static-swift-stdlib does not
// look; so its targets name the toolchain's own resource directory.
let toolchain: String = {
  let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
  let compilers = path.split(separator: ":").map { "\($0)/swiftc" }
  let compiler = compilers.first { FileManager.default.isExecutableFile(atPath: $0) } ?? "/usr/bin/swiftc"
  return URL(fileURLWithPath: compiler).resolvingSymlinksInPath()
    .deletingLastPathComponent().deletingLastPathComponent().path
}()

// With ALLOCS_WITHOUT_EVENTS set the agent has no events, for `make bench` to tell what they cost while they are off.
let withoutEvents = Context.environment["ALLOCS_WITHOUT_EVENTS"] != nil ? ["-DALLOCS_WITHOUT_EVENTS"] : []
// The options of every build of the agent. scripts/agent-flags reads these three lists, for the builds that SwiftPM
// can't do (scripts/build-kit, scripts/build-aarch64): nothing but strings in them, a comment on a line of its own.
//
// No allocation (the compiler refuses any), no runtime checks that could abort the host, no frame pointer of its own.
let agentSwiftFlags = [
  "-wmo", "-Ounchecked", "-enforce-exclusivity=unchecked", "-no-allocations",
  // Debian 12's valgrind reads no later version, and ends where a library has one.
  "-dwarf-version=4",
  "-Xcc", "-fno-plt", "-Xcc", "-Xclang", "-Xcc", "-mframe-pointer=none",
  // Each function begins a line of the cache: what a pair costs depended by 2 ns on what stood before its hooks.
  "-Xllvm", "-align-all-functions=6",
]
let agentCFlags = [
  "-O2", "-gdwarf-4", "-fvisibility=hidden", "-fno-plt", "-ftls-model=initial-exec", "-Xclang",
  "-mframe-pointer=none", "-falign-functions=64", "-Wall", "-Wextra",
]
let agentLinkerFlags = [
  "--gc-sections", "-z", "now",
]
let agentSwift: [SwiftSetting] = [
  .enableExperimentalFeature("Embedded"),
  .unsafeFlags(
    agentSwiftFlags + ["-resource-dir", "\(toolchain)/lib/swift"] + withoutEvents.flatMap { ["-Xcc", $0] }),
]
let agentC: [CSetting] = [.unsafeFlags(agentCFlags + withoutEvents)]
// An Embedded library would export swift_retain and its like and break every Swift program: the version script hides
// them. Named as Embedded at the link as well, it is not linked to libswiftCore and has no start-up code.
let agentLinker: [LinkerSetting] = [
  .unsafeFlags(
    [
      "-enable-experimental-feature", "Embedded", "-nostartfiles",
      "-Xlinker", "--version-script=\(Context.packageDirectory)/Sources/Agent/Entry/exports.map",
      // libc alone, and not the dynamic linker that libc.so names beside it: musl's would look for that one and refuse.
      "-Xclang-linker", "-nodefaultlibs", "-Xlinker", "-l:libc.so.6",
    ] + agentLinkerFlags.flatMap { ["-Xlinker", $0] })
]

let package = Package(
  name: "allocsd",
  products: [
    .library(name: "allocs_agent", type: .dynamic, targets: ["AgentEntry"]),
    .executable(name: "allocsd", targets: ["allocsd"]),
    .executable(name: "allocsctl", targets: ["allocsctl"]),
    .library(name: "IndexReader", targets: ["IndexReader"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
  ],
  targets: [
    // MARK: both sides
    .target(name: "SharedLayout", cSettings: [.unsafeFlags(["-gdwarf-4"])]),

    // MARK: inside the target process
    .target(name: "AgentMachine", dependencies: ["SharedLayout"], path: "Sources/Agent/Machine", cSettings: agentC),
    .target(
      name: "AgentLibc", dependencies: ["SharedLayout", "AgentMachine"], path: "Sources/Agent/Core/Libc/C",
      publicHeadersPath: ".", cSettings: agentC),
    .target(
      name: "AgentCore", dependencies: ["SharedLayout", "AgentMachine", "AgentLibc"], path: "Sources/Agent/Core",
      exclude: ["Libc/C"], swiftSettings: agentSwift),
    .target(
      name: "AgentEntry", dependencies: ["SharedLayout", "AgentMachine", "AgentCore"], path: "Sources/Agent/Entry",
      exclude: ["exports.map"], cSettings: agentC, linkerSettings: agentLinker),

    // MARK: outside it
    .target(name: "ByteText"),
    .systemLibrary(name: "COpening", path: "Sources/SystemAccess/COpening"),
    .target(
      name: "SystemAccess", dependencies: ["ByteText", "COpening", "SharedLayout"], exclude: ["COpening"]),
    .target(name: "Bounds", dependencies: ["SystemAccess"]),
    .systemLibrary(
      name: "CConfinement", path: "Sources/Confinement/CConfinement", providers: [.apt(["libseccomp-dev"])]),
    .target(
      name: "Confinement", dependencies: ["CConfinement", "SystemAccess"], exclude: ["CConfinement"],
      linkerSettings: [.unsafeFlags(["-Xlinker", "-l:libseccomp.a"])]),
    .systemLibrary(name: "CFileSystem", path: "Sources/FileFacts/CFileSystem"),
    .target(name: "FileFacts", dependencies: ["ByteText", "CFileSystem"], exclude: ["CFileSystem"]),
    .target(name: "MappingGuard", path: "Sources/IndexReader/MappingGuard"),
    .systemLibrary(name: "CLibrary", path: "Sources/SegmentFiles/CLibrary"),
    .target(
      name: "SegmentFiles",
      dependencies: ["Bounds", "ByteText", "CLibrary", "COpening", "FileFacts", "SharedLayout", "SystemAccess"],
      exclude: ["CLibrary"]),
    .target(
      name: "IndexReader",
      dependencies: [
        "Bounds", "ByteText", "CLibrary", "FileFacts", "MappingGuard", "SegmentFiles", "SharedLayout", "SystemAccess",
      ],
      exclude: ["MappingGuard"]),
    .systemLibrary(
      name: "CLiburing", path: "Sources/EventExport/CLiburing", providers: [.apt(["liburing-dev"])]),
    .target(
      name: "EventExport",
      dependencies: ["Bounds", "ByteText", "CLiburing", "IndexReader", "SharedLayout", "SystemAccess"],
      exclude: ["CLiburing"],
      // As an archive: nothing more is to be installed where the binaries run, and a tool's start loads nothing more.
      linkerSettings: [.unsafeFlags(["-Xlinker", "-l:liburing.a"])]),
    .systemLibrary(
      name: "CLibdw", path: "Sources/Symbols/CLibdw", pkgConfig: "libdw", providers: [.apt(["libdw-dev"])]),
    .target(name: "CDemangle", path: "Sources/Symbols/CDemangle", linkerSettings: [.linkedLibrary("iberty")]),
    .target(
      name: "StoppedThread", path: "Sources/Symbols/StoppedThread",
      linkerSettings: [.linkedLibrary("dw"), .linkedLibrary("elf")]),
    .systemLibrary(name: "CLzma", path: "Sources/Symbols/CLzma", providers: [.apt(["liblzma-dev"])]),
    .systemLibrary(name: "CDeflate", path: "Sources/Symbols/CDeflate", providers: [.apt(["libdeflate-dev"])]),
    .systemLibrary(name: "CZstd", path: "Sources/Symbols/CZstd", providers: [.apt(["libzstd-dev"])]),
    .target(
      name: "Symbols",
      dependencies: [
        "Bounds", "ByteText", "CDeflate", "CLibdw", "CLzma", "CZstd", "CDemangle", "FileFacts", "StoppedThread",
        "SystemAccess",
      ],
      exclude: ["CDeflate", "CLibdw", "CLzma", "CZstd", "CDemangle", "StoppedThread"],
      linkerSettings: [.unsafeFlags(["-Xlinker", "-l:libdeflate.a", "-Xlinker", "-l:libzstd.a"])]),
    .target(
      name: "Provenance", dependencies: ["Bounds", "ByteText", "IndexReader", "Symbols"],
      resources: [.embedInCode("Wrappers.txt")]),
    .target(
      name: "CPprof", path: "Sources/Answers/Profiles/CPprof", exclude: ["pprof.proto"],
      linkerSettings: [.unsafeFlags(["-Xlinker", "-l:libprotobuf-c.a"])]),
    .systemLibrary(name: "CZlib", path: "Sources/Answers/Profiles/CZlib", providers: [.apt(["zlib1g-dev"])]),
    .target(
      name: "Answers",
      dependencies: [
        "Bounds", "ByteText", "CPprof", "CZlib", "EventExport", "FileFacts", "IndexReader", "Provenance",
        "SharedLayout",
        "Symbols", "SystemAccess",
      ],
      exclude: ["Profiles/CPprof", "Profiles/CZlib"],
      linkerSettings: [.unsafeFlags(["-Xlinker", "-l:libz.a"])]),
    .target(
      name: "ServerProtocol", dependencies: ["ByteText", "COpening", "SystemAccess"],
      resources: [.embedInCode("VERSION")]),
    .target(
      name: "Page",
      resources: [
        "index.html", "page.css", "page.js", "api.js", "parts.js", "time.js", "flame.js", "map.js", "change.js",
        "memory.js", "process.js", "openapi.json",
      ].map { .embedInCode("Files/\($0)") }),
    .target(name: "Front", dependencies: ["ByteText", "Page", "ServerProtocol", "SystemAccess"]),
    .target(
      name: "CPerfetto", path: "Sources/Recording/CPerfetto", exclude: ["perfetto.proto"],
      linkerSettings: [.unsafeFlags(["-Xlinker", "-l:libprotobuf-c.a"])]),
    .systemLibrary(name: "CPrefetch", path: "Sources/Recording/CPrefetch"),
    .target(
      name: "Recording",
      dependencies: [
        "Answers", "Bounds", "ByteText", "CPerfetto", "CPrefetch", "CZstd", "EventExport", "FileFacts", "IndexReader",
        "Provenance",
        "SharedLayout", "Symbols", "SystemAccess",
      ],
      exclude: ["CPerfetto", "CPrefetch"]),
    .target(
      name: "Watching",
      dependencies: ["Answers", "Bounds", "ByteText", "IndexReader", "Provenance", "Symbols", "SystemAccess"]),
    .executableTarget(
      name: "allocsctl",
      dependencies: [
        "Answers", "Bounds", "ByteText", "CLibrary", "EventExport", "FileFacts", "Front", "IndexReader", "Provenance",
        "Recording", "ServerProtocol", "SharedLayout", "Symbols", "SystemAccess", "Watching",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
      ],
      path: "Sources/Client"),
    .systemLibrary(name: "CMalloc", path: "Sources/IndexServer/CMalloc"),
    .systemLibrary(name: "CProcessEnds", path: "Sources/SegmentWatch/CProcessEnds"),
    .target(
      name: "SegmentWatch", dependencies: ["ByteText", "CProcessEnds", "SegmentFiles", "SystemAccess"],
      exclude: ["CProcessEnds"]),
    .systemLibrary(name: "CBroker", path: "Sources/Broker/CBroker"),
    // The only part with privileges: nothing that parses what users write may be among its dependencies.
    .target(
      name: "Broker",
      dependencies: [
        "ByteText", "CBroker", "Confinement", "SegmentFiles", "SegmentWatch", "ServerProtocol", "SystemAccess",
      ],
      exclude: ["CBroker"]),
    .executableTarget(
      name: "allocsd",
      dependencies: [
        "Answers", "Bounds", "Broker", "ByteText", "CMalloc", "Confinement", "EventExport", "FileFacts", "Front",
        "IndexReader", "Page", "Provenance", "Recording", "ServerProtocol", "Symbols", "SystemAccess", "Watching",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Hummingbird", package: "hummingbird"),
        .product(name: "HummingbirdCore", package: "hummingbird"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "Metrics", package: "swift-metrics"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
      ],
      path: "Sources/IndexServer", exclude: ["CMalloc"]),

    // MARK: benchmarks
    .target(name: "Measurement", path: "Benchmarks/Measurement"),
    .executableTarget(name: "allocs-bench", dependencies: ["Measurement", "Watching"], path: "Benchmarks/Harness"),
    .executableTarget(
      name: "allocs-lookup-bench", dependencies: ["IndexReader", "Measurement"], path: "Benchmarks/LookUp"),
    .executableTarget(
      name: "allocs-export-bench", dependencies: ["EventExport", "Measurement", "SharedLayout", "SystemAccess"],
      path: "Benchmarks/Export"),
    .executableTarget(
      name: "allocs-drain-bench", dependencies: ["EventExport", "IndexReader", "SystemAccess"],
      path: "Benchmarks/Drain"),

    // MARK: tests
    .target(name: "TestSupport", dependencies: ["ByteText", "SharedLayout"], path: "Tests/TestSupport"),
    .testTarget(name: "TestSupportTests", dependencies: ["TestSupport"]),
    .testTarget(name: "MeasurementTests", dependencies: ["Measurement", "TestSupport"]),
    .testTarget(name: "SharedLayoutTests", dependencies: ["SharedLayout", "TestSupport"]),
    .testTarget(name: "ByteTextTests", dependencies: ["ByteText", "TestSupport"]),
    .testTarget(name: "BoundsTests", dependencies: ["Bounds", "SystemAccess", "TestSupport"]),
    .executableTarget(
      name: "confinement-probe", dependencies: ["CConfinement", "Confinement", "SystemAccess"],
      path: "Tests/ConfinementTests/Probe"),
    .testTarget(
      name: "ConfinementTests",
      dependencies: ["CConfinement", "Confinement", "SystemAccess", "TestSupport", "confinement-probe"],
      exclude: ["Probe"]),
    .testTarget(
      name: "SegmentFilesTests",
      dependencies: ["COpening", "SegmentFiles", "SharedLayout", "SystemAccess", "TestSupport"]),
    .testTarget(
      name: "IndexReaderTests",
      dependencies: ["Bounds", "CLibrary", "IndexReader", "SharedLayout", "SystemAccess", "TestSupport"],
      exclude: ["Segments"]),
    .testTarget(
      name: "EventExportTests",
      dependencies: ["EventExport", "IndexReader", "SharedLayout", "SystemAccess", "TestSupport"]),
    .testTarget(
      name: "RecordingTests",
      dependencies: [
        "Answers", "Bounds", "ByteText", "CPerfetto", "CZstd", "IndexReader", "Provenance", "Recording", "SharedLayout",
        "Symbols", "SystemAccess", "TestSupport",
      ]),
    .testTarget(
      name: "SymbolsTests", dependencies: ["Bounds", "ByteText", "FileFacts", "Symbols", "TestSupport"],
      exclude: ["Programs"]),
    .testTarget(
      name: "ProvenanceTests",
      dependencies: ["ByteText", "IndexReader", "Provenance", "SharedLayout", "Symbols", "TestSupport"]),
    .testTarget(
      name: "AnswersTests",
      dependencies: [
        "Answers", "Bounds", "ByteText", "CPprof", "IndexReader", "Provenance", "SharedLayout", "Symbols",
        "SystemAccess",
        "TestSupport",
      ]),
    .testTarget(
      name: "WatchingTests",
      dependencies: [
        "Answers", "ByteText", "IndexReader", "Provenance", "SharedLayout", "Symbols", "SystemAccess", "TestSupport",
        "Watching",
      ]),
    .testTarget(
      name: "BrokerTests",
      dependencies: [
        "Broker", "SegmentFiles", "SegmentWatch", "ServerProtocol", "SharedLayout", "SystemAccess", "TestSupport",
      ]),
    .testTarget(name: "FrontTests", dependencies: ["Front", "SystemAccess", "TestSupport"]),
    .testTarget(
      name: "ServerProtocolTests", dependencies: ["COpening", "ServerProtocol", "SystemAccess", "TestSupport"]),
    .testTarget(name: "SystemAccessTests", dependencies: ["SystemAccess", "TestSupport"]),
    .testTarget(
      name: "EndToEndTests",
      dependencies: ["CLibrary", "IndexReader", "Recording", "SharedLayout", "SystemAccess", "TestSupport"],
      exclude: ["Programs"]),
    // What the fuzzer runs. The fuzzer itself is made by `make fuzz`, see below.
    .target(
      name: "FuzzTargets",
      dependencies: [
        "Answers", "Bounds", "EventExport", "FileFacts", "IndexReader", "Recording", "SharedLayout", "Symbols",
        "TestSupport",
      ],
      path: "Tests/Fuzz/FuzzTargets"),
    .testTarget(name: "FuzzReplayTests", dependencies: ["FuzzTargets", "TestSupport"]),
  ]
)

// With ALLOCS_TESTS_ONLY set, only what tests import is in the package. `swift test` builds every target, and in a
// configuration of its own; this spares it the server's dependencies, which take minutes, while the end-to-end tests
// run the release binaries that users get.
if Context.environment["ALLOCS_TESTS_ONLY"] != nil {
  var needed = Set(package.targets.filter(\.isTest).map(\.name))
  var added = true
  while added {
    let before = needed.count
    for target in package.targets where needed.contains(target.name) {
      for case .byNameItem(let name, _) in target.dependencies { needed.insert(name) }
    }
    added = needed.count > before
  }
  package.products = []
  package.targets.removeAll { !needed.contains($0.name) }
}

// With ALLOCS_FUZZ set, the fuzzer is in the package. It and all it imports must then be built with -sanitize=fuzzer,
// as `make fuzz` does.
if Context.environment["ALLOCS_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(name: "allocs-fuzz", dependencies: ["FuzzTargets"], path: "Tests/Fuzz/Fuzzer"))
}
