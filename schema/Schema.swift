/// The index's schema, embedded in the binary: numbered migrations and the views that people read.
public enum Schema {
    /// `PRAGMA application_id` of an index: "lami" in ASCII, so that file(1) and sqlite3 can tell whose database it is.
    public static let applicationID: Int32 = 0x6c61_6d69

    /// The migrations in order; the database's `user_version` is the number of those that it has had.
    public static var migrations: [String] {
        [
            PackageResources.v001_index_sql, PackageResources.v002_session_sql, PackageResources.v003_space_sql,
            PackageResources.v004_check_sql, PackageResources.v005_snapshots_sql,
            PackageResources.v006_snapshot_image_sql, PackageResources.v007_durability_sql,
            PackageResources.v008_content_checks_sql, PackageResources.v009_stream_resume_sql,
            PackageResources.v010_platforms_sql, PackageResources.v011_totals_sql, PackageResources.v012_sealed_sql,
            PackageResources.v013_mount_rights_sql,
            PackageResources.v014_trust_sql, PackageResources.v015_podman_sql, PackageResources.v016_stream_origin_sql,
        ].map { String(decoding: $0, as: UTF8.self) }
    }

    /// Drops and creates every view.
    public static var views: String { String(decoding: PackageResources.views_sql, as: UTF8.self) }
}
