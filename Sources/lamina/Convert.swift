import ArgumentParser
import LaminaDaemon

struct Convert: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make an eStargz or zstd:chunked image of an image, a tar or a directory.",
        discussion: """
            SOURCE is a registry's reference, oci:DIR[:TAG], tar:FILE (plain, gzip or zstd; - is standard input) or dir:PATH; DESTINATION is \
            oci:DIR:TAG. The same source and options give the same bytes, whatever machine and number of threads. An \
            eStargz layer is an ordinary tar.gz as well, and one of zstd:chunked an ordinary tar.zst: every container \
            runtime can use the image, or every one that reads zstd.

              lamina convert dir:/usr/share oci:/srv/images:share
              lamina convert --prioritized-file usr/bin/app localhost:5000/debian:12 oci:/srv/images:debian
            """)

    @Argument(help: "What to convert.") var source: String
    @Argument(help: "Where to write: oci:DIR:TAG.") var destination: String

    @Option(help: ArgumentHelp("estargz or zstd-chunked, as podman reads it (default: estargz).", valueName: "format"))
    var format: String?

    @Option(help: ArgumentHelp("The size of chunks in bytes, 4096 to 67108864 (default: 4194304).", valueName: "bytes"))
    var chunkSize: Int?

    @Option(help: ArgumentHelp("How hard to compress, 0 to 12 (default: 6; zstd-chunked: 3).", valueName: "level"))
    var level: Int?

    @Option(
        help: ArgumentHelp("A file with a path on each line: files that come first in the image.", valueName: "list"))
    var prioritize: String?

    @Option(
        name: .customLong("prioritized-file"), parsing: .singleValue,
        help: ArgumentHelp("A file that comes first in the image; can be given several times.", valueName: "path"))
    var prioritizedFiles: [String] = []

    @Option(help: ArgumentHelp("How many threads compress; one for each core without it.", valueName: "count"))
    var threads: Int?

    @OptionGroup var imageOptions: ImageOptions
    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func validate() throws {
        if let format, !["estargz", "zstd-chunked"].contains(format) {
            throw ValidationError("--format must be estargz or zstd-chunked, is '\(format)'")
        }
        if let chunkSize, !(4096...67_108_864).contains(chunkSize) {
            throw ValidationError("--chunk-size must be 4096 to 67108864, is \(chunkSize)")
        }
        if let level, !(0...12).contains(level) { throw ValidationError("--level must be 0 to 12, is \(level)") }
        if let threads, !(1...1024).contains(threads) {
            throw ValidationError("--threads must be 1 to 1024, is \(threads)")
        }
    }

    func run() throws {
        try reporting(json: facts.json) {
            try ConvertCommand(
                source: source, destination: destination, format: format, chunkSize: chunkSize, level: level,
                prioritizedList: prioritize,
                prioritizedFiles: prioritizedFiles, platform: imageOptions.platform, plainHTTP: imageOptions.plainHTTP,
                threads: threads, credentialsFile: imageOptions.credentialsFile
            ).run(common.context(json: facts.json))
        }
    }
}
