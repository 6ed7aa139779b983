//! Networks of one step, written down here: the mean of all values, which is what a network for smoking would say.
use super::*;
use crate::base::digest::sha256_hex;
use crate::detect::Preprocessor;
use crate::detect::card::ValueType;

/// A part of a message of protocol buffers.
fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 128, "a length of one byte");
    [&[number << 3 | 2, length], bytes].concat()
}

/// A number in one.
fn number(number: u8, value: u8) -> Vec<u8> {
    match number {
        0..16 => vec![number << 3, value],
        _ => vec![number << 3 | 0x80, number >> 4, value],
    }
}

const FLOAT: u8 = 1;
const UINT8: u8 = 2;

/// A tensor by its name: what it holds, and its shape.
fn tensor(name: &str, of: u8, shape: &[u8]) -> Vec<u8> {
    let dimensions: Vec<u8> = (shape.iter())
        .flat_map(|length| part(1, &number(1, *length)))
        .collect();
    let of = [number(1, of), part(2, &dimensions)].concat();
    [part(1, name.as_bytes()), part(2, &part(1, &of))].concat()
}

/// A step: from, to, what, and how.
fn node(from: &str, to: &str, what: &str, how: &[u8]) -> Vec<u8> {
    let parts = [(1, from), (2, to), (4, what)].map(|(n, text)| part(n, text.as_bytes()));
    [parts.concat(), part(5, how)].concat()
}

/// `onnx.proto3` of ONNX 1.14: the mean over planes, rows and columns of 8 x 8.
fn network_of(values: u8) -> Vec<u8> {
    let axes = [1, 2, 3].map(|axis| number(8, axis)).concat();
    let axes = [part(1, b"axes"), axes, number(20, 7)].concat();
    let to = [part(1, b"to"), number(3, FLOAT), number(20, 2)].concat();
    let graph = [
        part(1, &node("pixels", "floats", "Cast", &to)),
        part(1, &node("floats", "mean", "ReduceMean", &axes)),
        part(2, b"g"),
        part(11, &tensor("pixels", values, &[1, 3, 8, 8])),
        part(12, &tensor("mean", FLOAT, &[1, 1, 1, 1])),
    ];
    let graph: Vec<u8> = graph.concat();
    let mut model = [number(1, 8), part(8, &number(2, 13))].concat();
    // Longer than one byte says.
    model.extend([
        7 << 3 | 2,
        graph.len() as u8 | 0x80,
        (graph.len() >> 7) as u8,
    ]);
    model.extend(graph);
    model
}

/// With a card that says it takes `of`, less 100 and by a tenth where it can.
fn model(network: &[u8], of: ValueType) -> LoadedModel {
    let (mean, scale) = match of {
        ValueType::F32 => (100.0, 0.1),
        ValueType::U8 => (0.0, 1.0),
    };
    let card = format!(
        r#"
        name = "mean"
        version = "1"
        file = "mean.onnx"
        sha256 = "{}"
        licence = "Apache-2.0"
        summary = "for tests"
        input = {{ width_px = 8, height_px = 8, type = "{}", channels = "bgr", mean = [{mean:?}, {mean:?}, {mean:?}], scale = {scale:?}, pad = 114 }}
        output = {{ decoder = "smoking" }}
        smoking = {{ of = ["head"], min_score = 0.2, width = 3.2, above = 0.8, cigarettes = ["cigarette"], cigarettes_min_score = 0.05, cigarettes_width = 4.0, per_frame = 8 }}
        thresholds = {{ low = 0.1, nms_iou = 0.5 }}
        [[classes]]
        name = "smoking"
        threshold = 0.5
        "#,
        sha256_hex(network),
        of.word(),
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mean.onnx"), network).unwrap();
    std::fs::write(dir.path().join("mean.toml"), card).unwrap();
    LoadedModel::load(&dir.path().join("mean.toml")).unwrap()
}

fn runtime() -> Runtime {
    Runtime::load(None).expect("`.ci/setup test` fetches the library")
}

/// Grey, so that every pixel is the number of its luma.
fn grey(luma: u8) -> crate::decode::Frame {
    let size = SizePx {
        width_px: 16,
        height_px: 16,
    };
    let pixels = [vec![luma; 256], vec![128; 128]].concat();
    let frame = crate::decode::Frame::new(size, pixels);
    crate::decode::Frame {
        full_range: true,
        ..frame
    }
}

#[test]
fn a_network_gets_floats_or_bytes_as_its_card_says() {
    for (values, of) in [(FLOAT, ValueType::F32), (UINT8, ValueType::U8)] {
        let model = model(&network_of(values), of);
        let mut network = Network::load(&runtime(), &model).unwrap();
        let mut preprocessor = Preprocessor::new(model.card.input.clone(), 1);
        let size = preprocessor.card();
        // The second run has the first one's tensors.
        for luma in [200, 150, 200] {
            let frame = grey(luma);
            let mean = network.run(size, |t| preprocessor.fill_whole(&frame, t), |out| out[0]);
            let wanted = match of {
                ValueType::F32 => (f32::from(luma) - 100.0) * 0.1,
                ValueType::U8 => f32::from(luma),
            };
            let mean = mean.unwrap();
            assert!((mean - wanted).abs() < 0.01, "{of:?}: {mean} for {wanted}");
        }
    }
}

#[test]
fn a_network_that_takes_something_else_than_its_card_says_is_refused_with_what_to_change() {
    for (values, of, says) in [
        (UINT8, ValueType::F32, "type = \"f32\""),
        (FLOAT, ValueType::U8, "type = \"u8\""),
    ] {
        let model = model(&network_of(values), of);
        let refused = Network::load(&runtime(), &model).unwrap_err();
        assert!(matches!(
            refused,
            OnnxError::ShapeMismatch { what: "input", .. }
        ));
        let text = refused.to_string();
        assert!(text.contains(says) && text.contains("mean"), "{text}");
    }
}
