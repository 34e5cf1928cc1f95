use blockdev::Sectors;

use crate::{Access, CreateType, Descriptor, DescriptorError, ExtentType, MAX_DESCRIPTOR_LEN, MAX_EXTENTS};

const HEADER: &str = "version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";

fn with(lines: &str) -> Result<Descriptor, DescriptorError> {
    Descriptor::parse(format!("# Disk DescriptorFile\n{HEADER}{lines}").as_bytes())
}

#[test]
fn a_descriptor_of_a_snapshot_is_read_in_full_and_written_back() {
    let text = "# Disk DescriptorFile\r\nversion=3\r\nencoding=\"UTF-8\"\r\nCID=fffffffe\r\nparentCID=0a1b2c3d\r\n\
                isNativeSnapshot=\"no\"\r\ncreateType=\"vmfsSparse\"\r\n\
                parentFileNameHint=\"/vmfs/volumes/4f-1/my vm/my vm.vmdk\"\r\n\r\n# Extent description\r\n\
                RW 16777216 VMFSSPARSE \"my vm = 1-000001-delta.vmdk\"\r\n\r\n# Change Tracking File\r\n\
                changeTrackPath=\"my vm-000001-ctk.vmdk\"\r\n\r\n#DDB\r\n\r\nddb.uuid = \"60 00\"\r\nddb.adapterType=\"lsilogic\"";
    let disk = Descriptor::parse(text.as_bytes()).unwrap();
    assert_eq!((disk.version, disk.content_id, disk.parent_content_id), (3, 0xffff_fffe, Some(0x0a1b_2c3d)));
    assert_eq!((disk.is_native_snapshot, &disk.create_type), (Some(false), &CreateType::VmfsSparse));
    assert_eq!(disk.parent_file_name_hint.as_deref(), Some("/vmfs/volumes/4f-1/my vm/my vm.vmdk"));
    assert_eq!(disk.extents[0].file.as_deref(), Some("my vm = 1-000001-delta.vmdk"));
    assert_eq!((&disk.extents[0].kind, disk.capacity()), (&ExtentType::VmfsSparse, Some(Sectors(16_777_216))));
    assert_eq!(disk.other, [("changeTrackPath".to_owned(), "my vm-000001-ctk.vmdk".to_owned())]);
    let keys: Vec<_> = disk.ddb.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["ddb.uuid", "ddb.adapterType"]);
    assert_eq!(Descriptor::parse(disk.to_string().as_bytes()).unwrap(), disk);
}

#[test]
fn every_form_of_an_extent_line_is_read() {
    let disk =
        with("RW 8 FLAT \"a b.vmdk\" 128\nRDONLY 16 SPARSE \"c.vmdk\"\nNOACCESS 4 ZERO\n\tRW  2  ZERO  \n").unwrap();
    let access: Vec<_> = disk.extents.iter().map(|e| e.access).collect();
    assert_eq!(access, [Access::Rw, Access::ReadOnly, Access::NoAccess, Access::Rw]);
    assert_eq!(disk.extents[0].offset, Some(Sectors(128)));
    assert_eq!((disk.extents[1].offset, disk.extents[3].file.as_deref()), (None, None));
    assert_eq!(with("RW 8 NEWTYPE \"x\"").unwrap().extents[0].kind, ExtentType::Other("NEWTYPE".to_owned()));
}

#[test]
fn lines_that_are_wrong_are_refused_with_their_number() {
    let wrong = [
        ("RW 8 FLAT a.vmdk 0", "a file name in quotation marks after the type"),
        ("RW 8 FLAT", "a file name in quotation marks after the type"),
        ("RW 8 FLAT \"\" 0", "a file name in quotation marks after the type"),
        ("RW 8 FLAT \"a.vmdk 0", "a closing quotation mark"),
        ("RW -8 FLAT \"a.vmdk\" 0", "a count of sectors after the access"),
        ("RW 18446744073709551616 FLAT \"a\" 0", "a count of sectors after the access"),
        ("RW 8 FLAT \"a.vmdk\" x", "an offset in sectors after the file name"),
        ("rubbish", "a key with its value, or an extent"),
        ("= 1", "a key before the equals sign"),
        ("key = \"a", "a closing quotation mark"),
        ("key = \"a\" b", "nothing behind the closing quotation mark"),
        ("CID=2", "a key that did not stand before"),
        ("isNativeSnapshot=\"maybe\"", "yes or no"),
    ];
    for (line, wanted) in wrong {
        match with(line).unwrap_err() {
            DescriptorError::Line { line: 6, actual, expected } => {
                assert_eq!((actual.as_str(), expected), (line, wanted))
            }
            other => panic!("{line}: {other}"),
        }
    }
}

#[test]
fn required_keys_are_required_and_versions_have_an_edge() {
    for key in ["version", "CID", "createType"] {
        let text: String = HEADER.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
        assert_eq!(Descriptor::parse(text.as_bytes()), Err(DescriptorError::Missing { key }));
    }
    assert!(Descriptor::parse(HEADER.replace("version=1", "version=4").as_bytes()).is_ok());
    assert!(Descriptor::parse(HEADER.replace("version=1", "version=5").as_bytes()).is_err());
    assert!(Descriptor::parse(HEADER.replace("CID=1", "CID=123456789").as_bytes()).is_err());
    assert!(Descriptor::parse(HEADER.replace("CID=1", "CID=").as_bytes()).is_err());
}

#[test]
fn the_text_ends_at_the_first_nul_and_may_lack_a_final_newline() {
    let mut bytes = format!("{HEADER}ddb.adapterType = \"ide\"").into_bytes();
    bytes.extend([0; 64]);
    bytes.extend(b"rubbish");
    assert_eq!(Descriptor::parse(&bytes).unwrap().ddb("DDB.ADAPTERTYPE"), Some("ide"));
}

#[test]
fn declared_encodings_are_obeyed() {
    let text = |encoding: &str, name: &[u8]| {
        [HEADER.as_bytes(), encoding.as_bytes(), b"\nRW 1 FLAT \"", name, b"\" 0\n"].concat()
    };
    let name = |bytes: &[u8]| Descriptor::parse(bytes).map(|d| d.extents[0].file.clone().unwrap());
    assert_eq!(name(&text("encoding=\"UTF-8\"", "büro".as_bytes())).unwrap(), "büro");
    assert_eq!(name(&text("encoding=\"windows-1252\"", b"b\xfcro \x80")).unwrap(), "büro €");
    assert_eq!(name(&text("", b"b\xfcro")).unwrap(), "büro");
    assert_eq!(name(&text("encoding=\"Shift_JIS\"", b"plain")).unwrap(), "plain");
    assert!(matches!(name(&text("encoding=\"UTF-8\"", b"b\xfcro")), Err(DescriptorError::NotUtf8 { .. })));
    assert_eq!(name(&text("encoding=\"Shift_JIS\"", b"\x83\x5c\x83t\x83g")).unwrap(), "ソフト"); // 0x5c is no backslash here
    assert_eq!(name(&text("encoding=\"GBK\"", b"\xb2\xe2\xca\xd4")).unwrap(), "测试");
    assert_eq!(name(&text("encoding=\"Big5\"", b"\xb4\xfa\xb8\xd5")).unwrap(), "測試");
    assert_eq!(name(&text("encoding=\"EUC-KR\"", b"\xbd\xc3\xc7\xe8")).unwrap(), "시험");
    assert_eq!(name(&text("encoding=\"ISO-8859-2\"", b"\xb1\xea")).unwrap(), "ąę");
    let err = name(&text("encoding=\"Shift_JIS\"", b"\x83\x7f")).unwrap_err();
    assert_eq!(err.to_string(), "the text is not valid in the declared encoding Shift_JIS");
    for unknown in ["UTF-16LE", "EBCDIC", ""] {
        let err = name(&text(&format!("encoding=\"{unknown}\""), b"b\xfcro")).unwrap_err();
        assert_eq!(err, DescriptorError::Encoding { actual: unknown.to_owned() });
    }
}

#[test]
fn length_and_number_of_extents_are_limited() {
    let fill = |len: usize| format!("{HEADER}#{}", "x".repeat(len - HEADER.len() - 1));
    assert!(Descriptor::parse(fill(MAX_DESCRIPTOR_LEN).as_bytes()).is_ok());
    let err = Descriptor::parse(fill(MAX_DESCRIPTOR_LEN + 1).as_bytes()).unwrap_err();
    assert!(matches!(err, DescriptorError::TooLong { .. }));
    assert!(with(&"RW 1 ZERO\n".repeat(MAX_EXTENTS)).is_ok());
    assert!(matches!(with(&"RW 1 ZERO\n".repeat(MAX_EXTENTS + 1)), Err(DescriptorError::TooManyExtents { .. })));
}

#[test]
fn values_cannot_break_out_of_their_quotation_marks() {
    let mut disk = with("RW 1 FLAT \"a\" 0").unwrap();
    disk.set_ddb("ddb.comment", "x\"\nRW 1 FLAT \"/etc/passwd");
    let again = Descriptor::parse(disk.to_string().as_bytes()).unwrap();
    assert_eq!(again.extents.len(), 1);
    assert_eq!(again.ddb("ddb.comment"), Some("x??RW 1 FLAT ?/etc/passwd"));
}
