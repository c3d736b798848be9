/// Turns the states of a pull into what is shown: one line that is rewritten, or a line for each step. It knows no terminal and
/// no clock.
struct ProgressModel {
    private var latest: PullProgress?
    /// How many bytes had landed at which time, for the last seconds: the rate is computed from this.
    private var samples: [(time: Double, landed: Int64)] = []
    private var announced = Announced.nothing
    private var announcedTenth = 0
    /// The layers up to this one that are read as a whole, counted from one.
    private var announcedLayer = 0

    private enum Announced: Int { case nothing, resolving, indexing, merging }

    /// The rate is computed over this many seconds.
    private static let window = 4.0
    /// Samples closer than this count as one.
    private static let grain = 0.25

    mutating func update(_ progress: PullProgress, now: Double) {
        // Each layer that is read as a whole is a separate transfer; merging is one.
        let isOther =
            latest?.stage != progress.stage || (progress.stage == .streaming && latest?.current != progress.current)
        if isOther, [.merging, .streaming, .checking].contains(progress.stage) { samples = [] }
        latest = progress
        if let last = samples.last, samples.count > 1, now - last.time < Self.grain { return }
        samples.append((now, progress.landedBytes))
        while samples.count > 2, now - samples[0].time > Self.window { samples.removeFirst() }
    }

    /// Bytes per second; nil before it can be told.
    var rate: Double? {
        guard let first = samples.first, let last = samples.last, last.time - first.time >= Self.grain else {
            return nil
        }
        return Double(max(0, last.landed - first.landed)) / (last.time - first.time)
    }

    /// The line as it is now, at most `width` columns wide.
    func line(width: Int, usesColor: Bool) -> String {
        guard let latest else { return "" }
        var parts: [String]
        switch latest.stage {
        case .resolving: parts = ["resolving", latest.reference]
        case .indexing: parts = ["indexing", "\(latest.indexedLayers) of \(counted(latest.layers, "layer"))"]
        case .streaming: parts = transfer("reading layer \(latest.indexedLayers + 1) of \(latest.layers)", latest)
        case .merging:
            parts = transfer("merging", latest)
            if latest.fetchedBytes == 0, let room = Self.room(latest) { parts.append(room) }
        case .checking: parts = transfer("checking", latest)
        case .done: parts = ["done"]
        }
        if latest.stage != .resolving, latest.stage != .done, let current = latest.current { parts.append(current) }
        let text = Self.cut(parts.joined(separator: "  "), to: width)
        guard usesColor else { return text }
        return "\u{1B}[1m\(text.prefix(parts[0].count))\u{1B}[0m\(text.dropFirst(parts[0].count))"
    }

    private func transfer(_ verb: String, _ latest: PullProgress) -> [String] {
        var parts = [
            verb, Units.percent(latest.landedBytes, of: latest.bytes),
            "\(Units.bytes(latest.landedBytes)) of \(Units.bytes(latest.bytes))",
        ]
        if let rate {
            parts.append("\(Units.bytes(Int64(rate)))/s")
            if rate >= 1 { parts.append("ETA \(Units.duration(Double(latest.bytes - latest.landedBytes) / rate))") }
        }
        return parts
    }

    /// What is needed and what there is, before anything is fetched.
    private static func room(_ progress: PullProgress) -> String? {
        guard let needed = progress.neededBytes, let free = progress.freeBytes else { return nil }
        return "it takes up to \(Units.bytes(needed)) on disk, \(Units.bytes(free)) are free"
    }

    /// Cuts in the middle of the last item: the end of a path says more than its beginning.
    private static func cut(_ text: String, to width: Int) -> String {
        let safe = String(
            String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7f ? "?" : $0 }))
        guard safe.count > width else { return safe }
        guard width > 60 else { return String(safe.prefix(max(0, width))) }
        return safe.prefix(width - 21) + "…" + safe.suffix(20)
    }

    /// The lines for the steps that were reached since the last call; they do not depend on how often it is called.
    mutating func steps() -> [String] {
        guard let latest else { return [] }
        var lines: [String] = []
        if latest.stage != .checking, announced.rawValue < Announced.resolving.rawValue {
            lines.append("resolving \(latest.reference)")
            announced = .resolving
        }
        if latest.stage == .resolving { return lines }
        if announced.rawValue < Announced.indexing.rawValue, latest.layers > 0 {
            lines.append("indexing \(counted(latest.layers, "layer"))")
            announced = .indexing
        }
        if latest.stage == .streaming, announcedLayer <= latest.indexedLayers {
            announcedLayer = latest.indexedLayers + 1
            lines.append(
                "reading layer \(announcedLayer) of \(latest.layers), which has no table of contents: \(Units.bytes(latest.bytes))"
            )
        }
        if latest.stage == .checking { return checkSteps(latest) }
        guard latest.stage == .merging else { return lines }
        if announced.rawValue < Announced.merging.rawValue {
            lines.append(
                "merging \(Units.bytes(latest.bytes)), of which \(Units.bytes(latest.landedBytes)) are in the store"
                    + (Self.room(latest).map { "; \($0)" } ?? ""))
            announced = .merging
            announcedTenth = Units.percentage(latest.landedBytes, of: latest.bytes) / 10
        }
        let tenth = Units.percentage(latest.landedBytes, of: latest.bytes) / 10
        if tenth > announcedTenth {
            announcedTenth = tenth
            let fetched = "\(Units.bytes(latest.fetchedBytes)) fetched"
            lines.append("merged \(tenth * 10)%, \(fetched)" + (rate.map { ", \(Units.bytes(Int64($0)))/s" } ?? ""))
        }
        return lines
    }

    /// A line for each tenth of the bytes that a check reads.
    private mutating func checkSteps(_ latest: PullProgress) -> [String] {
        let tenth = Units.percentage(latest.landedBytes, of: latest.bytes) / 10
        guard tenth > announcedTenth else { return [] }
        announcedTenth = tenth
        return [
            "checked \(tenth * 10)% of \(Units.bytes(latest.bytes))"
                + (rate.map { ", \(Units.bytes(Int64($0)))/s" } ?? "")
        ]
    }
}
