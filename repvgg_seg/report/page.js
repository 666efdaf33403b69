'use strict';
document.documentElement.classList.add('js');
for (const figure of document.querySelectorAll('.compare')) {
  const stage = figure.querySelector('.stage');
  const range = figure.querySelector('input');
  const layers = [...figure.querySelectorAll('.layer')];
  const sides = ['left', 'right'].map((side) => figure.querySelector(`.${side} select`));
  const show = () => {
    const share = Number(range.value);
    figure.querySelector('.divider').style.left = `${share}%`;
    for (const layer of layers) {
      const [left, right] = sides.map((side) => side.value === layer.dataset.layer && layer.dataset.layer !== 'image');
      layer.classList.toggle('shown', left || right);
      layer.style.clipPath = left === right ? '' : `inset(0 ${left ? 100 - share : 0}% 0 ${left ? 0 : share}%)`;
    }
  };
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    range.value = (100 * (event.clientX - box.left)) / box.width;
    show();
  };
  stage.addEventListener('pointerdown', (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener('pointermove', (event) => event.buttons && drag(event));
  range.addEventListener('input', show);
  sides.forEach((side) => side.addEventListener('change', show));
  show();
}
