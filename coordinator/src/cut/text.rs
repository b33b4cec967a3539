//! Cuts a text into windows of a model's positions. Only where the windows lie is decided here: they are shuffled and
//! written like any other examples.

use manyhands_protocol::manifest::{TextRecipe, TrainRecipe};
use safetensors::tensor::Dtype;

use super::{CutError, CutTrain, Examples};

/// Cuts the end of `text` off as held out, and both parts into windows that lie one after another: `x` is a window's bytes,
/// `y` the byte after each. What does not fill a window at the end of a part is left out, and no window of the trained
/// part reaches into the other. Of the held-out windows [`TextRecipe::evaluation_rows_max`] are kept, evenly spread.
pub fn cut_text(recipe: &TrainRecipe, split: &TextRecipe, text: &[u8]) -> Result<CutTrain, CutError> {
    let model = &recipe.model;
    model.parameters().map_err(|e| CutError::Recipe { field: format!("work.model.{}", e.field), reason: e.reason })?;
    let Some(vocabulary) = model.vocabulary() else {
        let reason = "takes a model that begins with an embedding".to_owned();
        return Err(CutError::Recipe { field: "work.text".to_owned(), reason });
    };
    let known = vocabulary.min(model.classes());
    if let Some(at) = text.iter().position(|&byte| u32::from(byte) >= known) {
        return Err(CutError::Text { at, reason: format!("byte {}, the model knows {known}", text[at]) });
    }
    let positions = model.labels_count() as usize;
    let held_out_bytes = (text.len() as u64 * u64::from(split.held_out_percent) / 100) as usize;
    let (train, test) = text.split_at(text.len() - held_out_bytes);
    let (train, test) = (windows(train, positions), windows(test, positions));
    if test.rows() == 0 {
        return Err(CutError::Text { at: train.x.len(), reason: "what is held out does not fill one window".to_owned() });
    }
    let count = test.rows().min(split.evaluation_rows_max.map_or(usize::MAX, |most| most as usize));
    let chosen = (0..count).map(|i| i * test.rows() / count);
    Ok(CutTrain { shards: train.shards(recipe)?, test: test.write(chosen, "the held-out set")? })
}

fn windows(text: &[u8], positions: usize) -> Examples<'_> {
    let bytes = text.len().saturating_sub(1) / positions * positions;
    let answers = if bytes == 0 { &[][..] } else { &text[1..=bytes] };
    Examples { dtype: Dtype::U8, shape: vec![positions], x: &text[..bytes], y: answers, positions: Some(positions) }
}

#[cfg(test)]
mod tests {
    use manyhands::tensors;
    use manyhands_protocol::manifest::{JobManifest, JobWork};

    use super::*;

    fn recipe(vocabulary: u32, rows_per_shard: u32, evaluation_rows_max: Option<u32>) -> (TrainRecipe, TextRecipe) {
        let json = format!(
            r#"{{ "version": 1, "name": "t", "title": "t", "description": "t", "owner": "t", "category": "demo", "work": {{
            "kind": "train", "model": {{ "input": {{ "shape": [4], "dtype": "u8", "scale": 1.0, "offset": 0.0 }},
                "layers": [{{ "type": "embedding", "vocabulary": {vocabulary}, "width": 4 }},
                    {{ "type": "projection", "outputs": {vocabulary} }}], "loss": "softmax_cross_entropy" }},
            "inner_steps": 1, "batch": 1,
            "inner_optimizer": {{ "type": "sgd", "learning_rate": 0.1, "momentum": 0.0 }},
            "outer_optimizer": {{ "type": "nesterov", "learning_rate": 0.7, "momentum": 0.9 }},
            "units_per_round": 1, "rounds_max": 1, "target_bits_per_byte": 1.0, "rows_per_shard": {rows_per_shard}, "seed": 7,
            "text": {{ "held_out_percent": 20 }} }} }}"#
        );
        let manifest: JobManifest = manyhands_protocol::manifest::parse_json(json.as_bytes()).unwrap();
        manifest.validate().unwrap();
        let JobWork::Train(recipe) = manifest.work else { unreachable!("the manifest above is of a train job") };
        let split = TextRecipe { evaluation_rows_max, ..recipe.text.clone().unwrap() };
        (recipe, split)
    }

    /// Ids and answers of each window in a blob.
    fn rows(blob: &[u8], recipe: &TrainRecipe) -> Vec<(Vec<u32>, Vec<u32>)> {
        let shard = tensors::read_shard(blob, &recipe.model).unwrap();
        let ids: Vec<u32> = shard.x.iter().map(|id| id.to_bits()).collect();
        ids.chunks(4).zip(shard.y.chunks(4)).map(|(x, y)| (x.to_vec(), y.to_vec())).collect()
    }

    fn window(first: u32) -> (Vec<u32>, Vec<u32>) {
        ((first..first + 4).collect(), (first + 1..first + 5).collect())
    }

    #[test]
    fn windows_cover_both_parts_and_do_not_cross() {
        let text: Vec<u8> = (0..55).collect();
        let (recipe, split) = recipe(256, 5, None);
        let cut = cut_text(&recipe, &split, &text).unwrap();
        // 44 bytes are trained on: ten windows and their last answer; the 3 bytes after that do not fill another.
        let mut trained: Vec<_> = cut.shards.iter().flat_map(|shard| rows(shard, &recipe)).collect();
        assert_eq!(cut.shards.len(), 2);
        assert_ne!(trained, (0..10).map(|i| window(4 * i)).collect::<Vec<_>>(), "shuffled");
        trained.sort();
        assert_eq!(trained, (0..10).map(|i| window(4 * i)).collect::<Vec<_>>());
        assert_eq!(rows(&cut.test, &recipe), [window(44), window(48)]);
    }

    #[test]
    fn evaluation_takes_windows_from_all_over() {
        let text: Vec<u8> = (0..205).collect();
        let (recipe, split) = recipe(256, 5, Some(3));
        let cut = cut_text(&recipe, &split, &text).unwrap();
        // 41 bytes from 164 on are held out: ten windows, of which the first, the fourth and the seventh.
        assert_eq!(rows(&cut.test, &recipe), [window(164), window(176), window(188)]);
    }

    #[test]
    fn texts_that_do_not_do_are_refused() {
        let (narrow, split) = recipe(50, 5, None);
        let error = |recipe: &TrainRecipe, text: &[u8]| cut_text(recipe, &split, text).unwrap_err().to_string();
        assert_eq!(error(&narrow, &(0..55).collect::<Vec<_>>()), "text.txt: at byte 50: byte 50, the model knows 50");
        let (wide, _) = recipe(256, 5, None);
        assert!(error(&wide, b"too short").contains("held out does not fill one window"));
        assert!(error(&wide, b"").contains("held out does not fill one window"));
        let (few, _) = recipe(256, 11, None);
        assert!(error(&few, &(0..55).collect::<Vec<_>>()).contains("10 training examples are fewer"));
    }
}
