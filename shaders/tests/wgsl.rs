//! The WGSL files against naga: they are valid, and their bindings and parameter structs are what the Rust side says.
//! What they compute is tested where there is a device.
#![allow(clippy::unwrap_used)]

use manyhands_shaders::{Binding, ENABLE_SUBGROUPS, KERNELS, Kernel};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, GlobalVariable, Module, StorageAccess, TypeInner};

/// naga knows subgroups but not the directive that enables them (https://github.com/gfx-rs/wgpu/issues/5555).
fn parse(kernel: &Kernel) -> Module {
    // Without it naga takes no f16 out of a word either, which WebGPU has on every adapter.
    let plain = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let (wgsl, capabilities) = match kernel.wgsl.strip_prefix(ENABLE_SUBGROUPS) {
        Some(rest) => (rest, plain | Capabilities::SUBGROUP),
        None => (kernel.wgsl, plain),
    };
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.validate(&module).unwrap_or_else(|e| panic!("{}: {e:?}", kernel.name));
    module
}

fn bindings(module: &Module) -> Vec<(u32, u32, &GlobalVariable)> {
    let bound = module.global_variables.iter().filter_map(|(_, v)| v.binding.as_ref().map(|b| (b.group, b.binding, v)));
    let mut bound: Vec<_> = bound.collect();
    bound.sort_by_key(|b| (b.0, b.1));
    bound
}

#[test]
fn every_kernel_is_valid_with_one_entry_point() {
    for kernel in KERNELS {
        let module = parse(kernel);
        let names: Vec<_> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["main"], "{}", kernel.name);
    }
}

#[test]
fn bindings_are_as_declared() {
    for kernel in KERNELS {
        let module = parse(kernel);
        let got: Vec<_> = bindings(&module)
            .iter()
            .map(|(group, binding, v)| {
                let kind = match v.space {
                    AddressSpace::Uniform => Binding::Uniform,
                    AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Binding::ReadWrite,
                    AddressSpace::Storage { .. } => Binding::Read,
                    space => panic!("{}: a binding in {space:?}", kernel.name),
                };
                (*group, *binding, kind)
            })
            .collect();
        let expected: Vec<_> = kernel.bindings.iter().enumerate().map(|(i, kind)| (0, i as u32, *kind)).collect();
        assert_eq!(got, expected, "{}", kernel.name);
    }
}

#[test]
fn params_have_one_layout_on_both_sides() {
    for kernel in KERNELS {
        let module = parse(kernel);
        let (_, _, params) = bindings(&module)[0];
        let TypeInner::Struct { members, span } = &module.types[params.ty].inner else {
            panic!("{}: params is not a struct", kernel.name)
        };
        let got: Vec<_> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
        assert_eq!(got, kernel.params_fields, "{}", kernel.name);
        assert_eq!(*span as usize, kernel.params_bytes, "{}", kernel.name);
        for member in members {
            assert_eq!(module.types[member.ty].inner.size(module.to_ctx()), 4, "{}: every field is 4 bytes", kernel.name);
        }
    }
}

/// The dispatch arithmetic counts invocations as the overrides' defaults do.
#[test]
fn overrides_default_to_the_constants_of_the_rust_side() {
    use manyhands_shaders::{
        accuracy, adamw, add, attention, clear, column_sum, dropout, embedding, gelu, gradient_norm, layer_norm, matmul,
        relu_backward, relu_forward, sgd_momentum, softmax_cross_entropy,
    };
    let blocked = [
        ("ROWS", matmul::blocked::WORKGROUP_ROWS),
        ("COLUMNS", matmul::blocked::WORKGROUP_COLUMNS),
        ("K_CHUNK", matmul::K_CHUNK),
    ];
    let check = |kernel: &Kernel, expected: &[(&str, u32)]| {
        let module = parse(kernel);
        for (name, value) in expected {
            let (_, found) = module.overrides.iter().find(|(_, o)| o.name.as_deref() == Some(name)).expect("the override");
            let init = found.init.expect("a default");
            let naga::Expression::Literal(naga::Literal::U32(got)) = module.global_expressions[init] else {
                panic!("{} {name}", kernel.name)
            };
            assert_eq!(got, *value, "{} {name}", kernel.name);
        }
    };
    check(&matmul::naive::KERNEL, &[("WORKGROUP", matmul::naive::WORKGROUP), ("K_CHUNK", matmul::K_CHUNK)]);
    for kernel in
        [&matmul::blocked::KERNEL, &matmul::blocked_vec4::KERNEL, &matmul::blocked_f16::KERNEL, &matmul::blocked_vec4_f16::KERNEL]
    {
        check(kernel, &blocked);
    }
    for kernel in
        [&matmul::tiled::KERNEL, &matmul::tiled_ahead::KERNEL, &matmul::tiled_f16::KERNEL, &matmul::tiled_ahead_f16::KERNEL]
    {
        check(kernel, &[("FOLD", matmul::tiled::FOLD)]);
    }
    check(&matmul::quad::KERNEL, &[("K_CHUNK", matmul::K_CHUNK)]);
    check(&matmul::quad_vec2::KERNEL, &[("K_CHUNK", matmul::K_CHUNK)]);
    check(&column_sum::KERNEL, &[("WORKGROUP", column_sum::WORKGROUP), ("CHUNK", column_sum::CHUNK)]);
    check(&add::KERNEL, &[("WORKGROUP", add::WORKGROUP)]);
    check(&clear::KERNEL, &[("WORKGROUP", clear::WORKGROUP)]);
    check(&relu_backward::KERNEL, &[("WORKGROUP", relu_backward::WORKGROUP)]);
    check(&relu_forward::KERNEL, &[("WORKGROUP", relu_forward::WORKGROUP)]);
    check(&sgd_momentum::KERNEL, &[("WORKGROUP", sgd_momentum::WORKGROUP)]);
    check(&softmax_cross_entropy::KERNEL, &[("WORKGROUP", softmax_cross_entropy::WORKGROUP)]);
    check(&accuracy::KERNEL, &[("WORKGROUP", accuracy::WORKGROUP)]);
    check(&adamw::KERNEL, &[("WORKGROUP", adamw::WORKGROUP)]);
    check(&dropout::KERNEL, &[("WORKGROUP", dropout::WORKGROUP)]);
    use attention::{delta, forward, key_gradient, query_gradient};
    for kernel in [&forward::KERNEL, &delta::KERNEL, &query_gradient::KERNEL, &key_gradient::KERNEL] {
        check(kernel, &[("WORKGROUP", attention::WORKGROUP)]);
    }
    check(&embedding::forward::KERNEL, &[("WORKGROUP", embedding::WORKGROUP)]);
    for kernel in [&embedding::token_gradient::KERNEL, &embedding::position_gradient::KERNEL] {
        check(kernel, &[("WORKGROUP", embedding::WORKGROUP), ("CHUNK", embedding::CHUNK)]);
    }
    use gradient_norm::{clip, squares};
    check(&clip::KERNEL, &[("WORKGROUP", clip::WORKGROUP)]);
    let squares_constants = [("WORKGROUP", squares::WORKGROUP), ("PART", squares::PART), ("CHUNK", squares::CHUNK)];
    check(&squares::KERNEL, &squares_constants);
    check(&gelu::forward::KERNEL, &[("WORKGROUP", gelu::WORKGROUP)]);
    check(&gelu::backward::KERNEL, &[("WORKGROUP", gelu::WORKGROUP)]);
    for kernel in [&layer_norm::forward::KERNEL, &layer_norm::backward::KERNEL, &layer_norm::parameters::KERNEL] {
        check(kernel, &[("WORKGROUP", layer_norm::WORKGROUP), ("CHUNK", layer_norm::CHUNK)]);
    }
    images(check);
}

/// The same for convolutions and pools.
fn images(check: impl Fn(&Kernel, &[(&str, u32)])) {
    use manyhands_shaders::{average_pool_backward, average_pool_forward, convolution, convolution_forward};
    use manyhands_shaders::{convolution_input_gradient, convolution_weight_gradient, max_pool_backward, max_pool_forward, pool};
    let chunk = ("K_CHUNK", convolution::CHUNK);
    check(&convolution_forward::KERNEL, &[("WORKGROUP", convolution_forward::WORKGROUP), chunk]);
    check(&convolution_input_gradient::KERNEL, &[("WORKGROUP", convolution_input_gradient::WORKGROUP), chunk]);
    check(&convolution_weight_gradient::KERNEL, &[("WORKGROUP", convolution_weight_gradient::WORKGROUP), chunk]);
    for kernel in
        [&max_pool_forward::KERNEL, &max_pool_backward::KERNEL, &average_pool_forward::KERNEL, &average_pool_backward::KERNEL]
    {
        check(kernel, &[("WORKGROUP", pool::WORKGROUP)]);
    }
}
