// The version of the programs of this package.

/// What `--version` prints.
public let allocsVersion = "0.1.0"
