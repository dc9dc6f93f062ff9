//! Just enough of JSON Schema to hold the tools' output against `docs/schemas`: `type`, `properties`, `required`,
//! `additionalProperties: false`, `items` and `enum`.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Checks `value` against `docs/schemas/<name>.json`.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn check(name: &str, value: &Value) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas").join(format!("{name}.json"));
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let schema = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    conforms(&schema, value, name)
}

fn conforms(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{place} {what}: {value}"));
    if let Some(kind) = schema.get("type").and_then(Value::as_str)
        && !is(kind, value)
    {
        return wrong(format!("must be {kind}"));
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        return wrong(format!("must be one of {allowed:?}"));
    }
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if required.as_str().is_none_or(|key| value.get(key).is_none()) {
            return wrong(format!("lacks {required}"));
        }
    }
    for (key, part) in value.as_object().into_iter().flatten() {
        match schema.get("properties").and_then(|properties| properties.get(key)) {
            Some(own) => conforms(own, part, &format!("{place}.{key}"))?,
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                return wrong(format!("has the unknown {key:?}"));
            }
            None => {}
        }
    }
    let items = schema.get("items").zip(value.as_array());
    items
        .into_iter()
        .flat_map(|(item, parts)| parts.iter().map(move |part| (item, part)))
        .enumerate()
        .try_for_each(|(number, (item, part))| conforms(item, part, &format!("{place}[{number}]")))
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_schema_does_not_allow_is_found() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {"a": {"type": "array", "items": {"enum": ["x", "y"]}}, "b": {"type": "integer"}}
        });
        assert_eq!(conforms(&schema, &json!({"a": ["x", "y"], "b": 1}), "t"), Ok(()));
        for bad in
            [json!([]), json!({}), json!({"a": ["z"]}), json!({"a": [], "b": 1.5}), json!({"a": [], "c": 1})]
        {
            assert!(conforms(&schema, &bad, "t").is_err(), "{bad}");
        }
    }
}
